package convert

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// ownText is what a text that the model wrote itself is called in files.
const ownText = "the model's own text"

// texts returns everything that the model is to be run over.
func (j *job) texts() ([][]int32, error) {
	c := &j.opt.Calibration
	tok, err := j.src.Tokenizer()
	if err != nil {
		return nil, err
	}
	if tok == nil {
		return nil, errors.New("the model has no tokenizer, so that text cannot be used to calibrate it")
	}
	var out [][]int32
	if c.Text != "" {
		if out, err = j.readText(tok); err != nil {
			return nil, err
		}
		c.name = filepath.Base(c.Text)
	}
	for _, text := range c.Own {
		if len(text) < sensitivityContext || len(text) > calibrationContext {
			return nil, fmt.Errorf("a text of the model's own has %d tokens, expected %d to %d", len(text), sensitivityContext,
				calibrationContext)
		}
		out = append(out, text)
	}
	switch {
	case len(c.Own) > 0 && c.Text != "":
		c.name += " and " + ownText
	case len(c.Own) > 0:
		c.name = ownText
	}
	c.used = 0
	for _, text := range out {
		c.used += len(text)
	}
	return out, nil
}

// readText reads and splits the calibration text.
func (j *job) readText(tok *tokenizer.Tokenizer) ([][]int32, error) {
	path, limit := j.opt.Calibration.Text, j.opt.Calibration.Tokens
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTextBytes))
	if err != nil {
		return nil, err
	}
	if most := limit * 16; len(b) > most { // no tokenizer's tokens are longer on average
		b = b[:most]
	}
	if at := notText(b); at >= 0 {
		return nil, fmt.Errorf("%s: offset %d: is not UTF-8 text, as calibration needs it (a binary file, or another encoding? "+
			"\"iconv\" converts text)", path, at)
	}
	ids := tok.Encode(string(b), false, false)
	ids = ids[:min(len(ids), limit)]
	if len(ids) < calibrationContext {
		return nil, fmt.Errorf("%s: has %d tokens, at least %d are needed (some 10000 of mixed text are a good amount)", path,
			len(ids), calibrationContext)
	}
	var out [][]int32
	for ; len(ids) >= calibrationContext; ids = ids[calibrationContext:] {
		text := append([]int32{}, ids[:calibrationContext]...)
		if tok.AddBOS() {
			text[0] = tok.BOS()
		}
		out = append(out, text)
	}
	return out, nil
}

// notText returns where b stops being UTF-8 text without NULs, or −1. A character that the end cuts off counts as whole.
func notText(b []byte) int {
	for i := 0; i < len(b); {
		if !utf8.FullRune(b[i:]) {
			break
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == 0 || r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}
