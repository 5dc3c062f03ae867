package cli

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// adaptersOf reads --lora. A directory whose name ends in =NUMBER is named by =1 after it.
func adaptersOf(c *cli.Context) ([]source.Adapter, error) {
	var list []source.Adapter
	for _, text := range c.StringSlice("lora") {
		a := source.Adapter{Dir: text, Scale: 1}
		if i := strings.LastIndexByte(text, '='); i >= 0 {
			x, err := strconv.ParseFloat(text[i+1:], 64)
			if _, missing := os.Stat(text); err != nil && missing != nil || math.IsNaN(x) || math.IsInf(x, 0) {
				return nil, usagef("--lora %s: expected a directory, or DIR=SCALE with a number", text)
			}
			if err == nil {
				a = source.Adapter{Dir: text[:i], Scale: x}
			}
		}
		list = append(list, a)
	}
	if len(list) > 0 && c.Bool("lossless") {
		return nil, usagef("compress: --lora changes the weights, so that --lossless has nothing to keep (--bpw, --size or " +
			"--scheme bf16)")
	}
	return list, nil
}

// openAdapted opens a model with adapters merged into it.
func openAdapted(path string, adapters []source.Adapter) (source.Model, error) {
	src, err := source.Open(path)
	if err != nil || len(adapters) == 0 {
		return src, err
	}
	adapted, err := source.Adapt(src, adapters)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return adapted, nil
}
