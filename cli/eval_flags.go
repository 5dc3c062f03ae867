package cli

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

func chunkCtxFlag() cli.Flag {
	return &cli.IntFlag{Name: "ctx", Aliases: []string{"c", "ctx-size"}, Value: 512, Usage: "`TOKENS` per chunk"}
}

func stateFlag() cli.Flag {
	return &cli.StringFlag{Name: "state", Usage: "keep finished parts in `FILE`: the same command goes on from there after an " +
		"interruption"}
}

func saveLogitsFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "save-logits", Usage: usage}
}

// evalState is on what every finished part of an evaluation depends.
type evalState struct {
	Measure string `json:"measure"`
	Model   string `json:"model"` // fingerprint
	Device  string `json:"device"`
}

func stateOf(measure string, m *loaded) evalState {
	return evalState{Measure: measure, Model: m.file.Fingerprint(), Device: m.Memory().Device}
}

// openState opens the file of --state; without the option it returns nil, which remembers nothing.
func (p *program) openState(c *cli.Context, settings any) (*eval.State, error) {
	path := c.String("state")
	if path == "" {
		return nil, nil
	}
	s, err := eval.OpenState(path, settings)
	if err == nil && s.Len() > 0 {
		p.notef("%s: %d parts are finished already", path, s.Len())
	}
	return s, err
}

// saveLogits calls f with a writer of saved predictions for path, nil if path is empty; the file appears if f succeeds.
func saveLogits(path string, f func(*eval.LogitsWriter) error) error {
	if path == "" {
		return f(nil)
	}
	w, err := eval.CreateLogits(path)
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := f(w); err != nil {
		return err
	}
	return w.Finish()
}

// digest identifies a tokenized text.
func digest(tokens []int32) string {
	h := sha256.New()
	for _, t := range tokens {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(t)))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
