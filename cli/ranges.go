package cli

import (
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
)

// bounds are the values that an option may have, both ends included.
type bounds struct{ least, most float64 }

// maxCount bounds options that count things of which there may be as many as a file has.
const maxCount = math.MaxInt32

// ranges has the bounds of every numeric option, by its name. Negative values mean what they mean in llama.cpp: no limit for -n
// and
// --top-k, the whole context for --repeat-last-n, a new seed for --seed.
var ranges = map[string]bounds{
	"activations":        {8, 16},
	"bpw":                {convert.MinBPW, convert.MaxBPW},
	"cache-tokens":       {0, 1 << 26},
	"calibrate-self":     {1, ownTextMost},
	"calibrate-tokens":   {1, maxCount},
	"chunks":             {0, maxCount},
	"ctx":                {0, maxCtx},
	"damping":            {1e-6, 1000},
	"dry-allowed-length": {0, maxCtx},
	"dry-base":           {1, 100},
	"dry-multiplier":     {0, 100},
	"dry-penalty-last-n": {-1, maxCtx},
	"exponent":           {0.01, 1},
	"frequency-penalty":  {-100, 100},
	"keep":               {-1, maxCtx},
	"logprobs":           {0, 1000},
	"max-models":         {1, 64},
	"max-tokens":         {1, 1 << 16},
	"min-p":              {0, 1},
	"mirostat":           {0, 2},
	"mirostat-ent":       {0, 100},
	"mirostat-lr":        {0, 10},
	"n":                  {-2, maxCount},
	"n-gen":              {0, maxCtx},
	"n-parallel":         {1, 1024},
	"n-prompt":           {0, maxCtx},
	"parallel":           {1, 256},
	"port":               {0, 65535},
	"presence-penalty":   {-100, 100},
	"queue":              {0, 1 << 16},
	"repeat-last-n":      {-1, maxCtx},
	"repeat-penalty":     {0.01, 100},
	"repetitions":        {1, 1000},
	"row-exponent":       {0, 10},
	"seed":               {-1, math.MaxInt64},
	"shots":              {0, 1000},
	"stride":             {0, maxCtx},
	"tasks":              {0, maxCount},
	"temp":               {0, 1000},
	"threads":            {0, maxThreads},
	"top-k":              {-1, maxCount},
	"top-p":              {0, 1},
	"typical":            {0, 1},
	"xtc-probability":    {0, 1},
	"xtc-threshold":      {0, 1},
}

// checkRange lets f refuse what is out of its range; NaN is out of every range. ok is false for a numeric option without one.
func checkRange(f cli.Flag) (ok bool) {
	name := f.Names()[0]
	b, ok := ranges[name]
	check := func(v float64) error { return b.check(name, v) }
	switch f := f.(type) {
	case *cli.IntFlag:
		f.Action = func(_ *cli.Context, v int) error { return check(float64(v)) }
	case *cli.Int64Flag:
		f.Action = func(_ *cli.Context, v int64) error { return check(float64(v)) }
	case *cli.UintFlag:
		f.Action = func(_ *cli.Context, v uint) error { return check(float64(v)) }
	case *cli.Float64Flag:
		f.Action = func(_ *cli.Context, v float64) error { return check(v) }
	default:
		return true
	}
	return ok
}

func (b bounds) check(name string, v float64) error {
	if !(v >= b.least && v <= b.most) {
		return usagef("--%s %s: expected %s to %s", name, number(v), number(b.least), number(b.most))
	}
	return nil
}

// counts reads the value of an option that is a list such as 1,2,4.
func counts(name, text string) (list []int, err error) {
	for _, t := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(t))
		if err != nil {
			return nil, usagef("--%s %s: expected numbers with commas between them", name, text)
		}
		if err := ranges[name].check(name, float64(n)); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// number writes whole numbers without exponent.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
