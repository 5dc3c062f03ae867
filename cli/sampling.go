package cli

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// samplingFlags choose tokens; names and meanings are llama.cpp's.
func samplingFlags() []cli.Flag {
	d := sample.DefaultOptions()
	return []cli.Flag{
		&cli.Float64Flag{Name: "temp", Aliases: []string{"temperature"}, Value: decimal(d.Temperature),
			Usage: "temperature; 0 = always the best token"},
		&cli.IntFlag{Name: "top-k", Value: d.TopK, Usage: "choose among this many best tokens; 0 or less = all"},
		&cli.Float64Flag{Name: "top-p", Value: decimal(d.TopP), Usage: "choose among the best tokens of this total " +
			"probability; 0 = the best token, 1 = all"},
		&cli.Float64Flag{Name: "min-p", Value: decimal(d.MinP),
			Usage: "choose among tokens of at least this share of the best one's probability"},
		&cli.Float64Flag{Name: "typical", Aliases: []string{"typical-p"}, Value: 1,
			Usage: "choose among the tokens nearest to the expected surprise, of this total probability; 1 = off"},
		&cli.Float64Flag{Name: "xtc-probability", Usage: "leave out the most probable tokens this often; 0 = never"},
		&cli.Float64Flag{Name: "xtc-threshold", Value: decimal(d.XTCThreshold),
			Usage: "with --xtc-probability: all tokens of at least this probability but the last of them; above 0.5 = none"},
		&cli.IntFlag{Name: "mirostat", Usage: "keep the surprise of the text near --mirostat-ent by Mirostat 1 or 2, instead of " +
			"top-k, top-p, min-p, typical and XTC; 0 = off"},
		&cli.Float64Flag{Name: "mirostat-lr", Value: decimal(d.Mirostat.Eta), Usage: "learning rate of Mirostat, eta"},
		&cli.Float64Flag{Name: "mirostat-ent", Value: decimal(d.Mirostat.Tau), Usage: "target of Mirostat, tau, in bits per token"},
		&cli.Float64Flag{Name: "repeat-penalty", Value: 1, Usage: "divide the logits of recent tokens by this; 1 = off"},
		&cli.Float64Flag{Name: "presence-penalty", Usage: "subtract this from the logits of recent tokens"},
		&cli.Float64Flag{Name: "frequency-penalty", Usage: "subtract this for every time that a token was among the recent ones"},
		&cli.IntFlag{Name: "repeat-last-n", Value: d.PenaltyWindow, Usage: "how many recent tokens these penalties look at; " +
			"-1 = the context"},
		&cli.Float64Flag{Name: "dry-multiplier", Usage: "penalize tokens that go on with a repetition (DRY) by this times " +
			"--dry-base to the power of its length after --dry-allowed-length; 0 = off"},
		&cli.Float64Flag{Name: "dry-base", Value: decimal(d.DRY.Base), Usage: "base of the DRY penalty"},
		&cli.IntFlag{Name: "dry-allowed-length", Value: d.DRY.AllowedLength, Usage: "tokens of a repetition without DRY penalty"},
		&cli.IntFlag{Name: "dry-penalty-last-n", Value: -1, Usage: "how many recent tokens DRY looks at; -1 = the context, 0 = off"},
		&cli.StringSliceFlag{Name: "dry-sequence-breaker", KeepSpace: true, Usage: "a text at which repetitions end, instead of " +
			"line ends, colons, quotes and asterisks; may be repeated; none = no such text"},
		&cli.StringSliceFlag{Name: "logit-bias", Aliases: []string{"l"}, Usage: "`TOKEN+BIAS or TOKEN-BIAS`: add this to the logit " +
			"of a token, by its number; -inf excludes it; may be repeated"},
		&cli.Int64Flag{Name: "seed", Aliases: []string{"s"}, Value: -1, Usage: "seed of the random choice; -1: a new one each time"},
		&cli.StringFlag{Name: "grammar", Usage: "let the answer follow a grammar in GBNF: a `FILE or TEXT` (a text has ::=)"},
		&cli.StringFlag{Name: "json-schema", Aliases: []string{"j"},
			Usage: "let the answer be JSON that a schema allows: a `FILE or TEXT` (a text begins with a brace); {} = any object"},
	}
}

// decimal returns the short decimal number that v came from.
func decimal(v float32) float64 {
	d, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	if err != nil {
		return float64(v)
	}
	return d
}

// samplingFields returns where the options that are plain numbers are kept, by name.
func samplingFields(o *sample.Options) (floats map[string]*float32, ints map[string]*int) {
	return map[string]*float32{
			"temp": &o.Temperature, "min-p": &o.MinP, "typical": &o.Typical, "xtc-probability": &o.XTCProbability,
			"xtc-threshold": &o.XTCThreshold, "mirostat-lr": &o.Mirostat.Eta, "mirostat-ent": &o.Mirostat.Tau,
			"repeat-penalty": &o.RepeatPenalty, "presence-penalty": &o.PresencePenalty, "frequency-penalty": &o.FrequencyPenalty,
			"dry-multiplier": &o.DRY.Multiplier, "dry-base": &o.DRY.Base,
		}, map[string]*int{
			"top-k": &o.TopK, "mirostat": &o.Mirostat.Version, "repeat-last-n": &o.PenaltyWindow,
			"dry-allowed-length": &o.DRY.AllowedLength, "dry-penalty-last-n": &o.DRY.Window,
		}
}

func samplingOptions(c *cli.Context) (sample.Options, error) {
	o := sample.DefaultOptions()
	floats, ints := samplingFields(&o)
	for name, v := range floats {
		*v = float32(c.Float64(name))
	}
	for name, v := range ints {
		*v = c.Int(name)
	}
	o.TopP = sample.Nucleus(c.Float64("top-p"))
	if texts := c.StringSlice("dry-sequence-breaker"); len(texts) > 0 {
		o.DRY.Breakers = nil
		for _, t := range texts {
			if t != "none" {
				o.DRY.Breakers = append(o.DRY.Breakers, t)
			}
		}
	}
	o.Seed = uint64(c.Int64("seed"))
	if c.Int64("seed") < 0 {
		o.Seed = rand.Uint64() >> 12 // exact in a JSON number
	}
	var err error
	o.Bias, err = logitBiases(c.StringSlice("logit-bias"))
	return o, err
}

// logitBiases reads --logit-bias: 15043+1, 15043-0.5 or 15043-inf.
func logitBiases(texts []string) (map[int32]float32, error) {
	var out map[int32]float32
	for _, t := range texts {
		i := strings.IndexAny(t, "+-")
		if i < 0 {
			i = len(t)
		}
		id, err := strconv.ParseUint(t[:i], 10, 31)
		bias, berr := strconv.ParseFloat(t[i:], 32)
		if err != nil || berr != nil || math.IsNaN(bias) || math.IsInf(bias, 1) {
			return nil, usagef("--logit-bias %s: expected a token's number, + or -, and a number or inf, as in 15043+1 or 29905-inf", t)
		}
		if out == nil {
			out = map[int32]float32{}
		}
		out[int32(id)] = float32(bias)
	}
	return out, nil
}

// maxGrammar bounds the bytes of a grammar or schema.
const maxGrammar = 1 << 20

// grammarOption reads --grammar and --json-schema; nil if there are none.
func (p *program) grammarOption(c *cli.Context) (*grammar.Grammar, error) {
	g, schema := c.String("grammar"), c.String("json-schema")
	switch {
	case g != "" && schema != "":
		return nil, usagef("--grammar and --json-schema exclude each other")
	case g == "" && schema == "":
		return nil, nil
	case c.Bool("ignore-eos"):
		return nil, usagef("--ignore-eos: a text that follows a grammar or schema ends where they say")
	case g != "":
		text, name, err := p.fileOrText(g, strings.Contains(g, "::="))
		if err != nil {
			return nil, err
		}
		parsed, err := grammar.ParseGBNF(text)
		return parsed, inOption("--grammar", name, err)
	}
	text, name, err := p.fileOrText(schema, strings.HasPrefix(strings.TrimSpace(schema), "{"))
	if err != nil {
		return nil, err
	}
	if strings.Join(strings.Fields(text), "") == "{}" {
		return grammar.JSONObject()
	}
	parsed, err := grammar.FromSchema([]byte(text))
	return parsed, inOption("--json-schema", name, err)
}

// inOption says in which option, and in which file if it names one, a mistake is.
func inOption(option, file string, err error) error {
	switch {
	case err == nil:
		return nil
	case file != "":
		return fmt.Errorf("%s: %w", file, err)
	}
	return usagef("%s: %v", option, err)
}

func (p *program) fileOrText(value string, isText bool) (text, name string, err error) {
	if isText {
		return value, "", nil
	}
	text, err = p.readFile(value)
	if err == nil && len(text) > maxGrammar {
		err = fmt.Errorf("%s: has %d bytes, at most %d are accepted", value, len(text), maxGrammar)
	}
	return text, value, err
}
