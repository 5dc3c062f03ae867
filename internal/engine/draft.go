package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// drafter is a small model that proposes tokens for a larger one. Each slot of the engine has pages of its own in the
// drafter's cache.
type drafter struct {
	backend  Backend
	nCtx     int
	maxBatch int
	vocab    int
	slots    []draftSlot
	seconds  float64 // of a token
}

type draftSlot struct {
	tokens []int32 // in the cache
	pages  []int32
}

// draftLogprob is the log-probability below which a drafter stops proposing: it is as likely wrong as right.
const draftLogprob = -0.6931

// UseDraft loads the model in f on backend b to propose tokens for requests with SpeculateDraft. It must have the engine's
// vocabulary. It is called before the first request; the caller closes b and f.
func (e *Engine) UseDraft(ctx context.Context, f *format.Reader, b Backend, opt LoadOptions) error {
	prog, tok, err := Describe(f)
	if err != nil {
		return err
	}
	if err := sameVocabulary(e, tok.NVocab(), prog.Config.NVocab, tok.Piece); err != nil {
		return fmt.Errorf("%s cannot draft for this model: %w", f.Path(), err)
	}
	if prog.Recurrent() {
		return fmt.Errorf("%s cannot draft: a model with a recurrent state (%s) does not go back after a wrong proposal (use one "+
			"with attention only, or --speculate ngram)", f.Path(), prog.Config.Architecture)
	}
	opt.NCtx, opt.MaxBatch, opt.Sequences = e.nCtx, e.maxBatch, len(e.slots)
	if err := b.Load(ctx, f, prog, opt); err != nil {
		return err
	}
	d := &drafter{backend: b, nCtx: e.nCtx, maxBatch: e.maxBatch, vocab: prog.Config.NVocab, slots: make([]draftSlot, len(e.slots))}
	pages := PagesFor(e.nCtx)
	for i := range d.slots {
		for j := range pages {
			d.slots[i].pages = append(d.slots[i].pages, int32(i*pages+j))
		}
	}
	e.draft = d
	return nil
}

func sameVocabulary(e *Engine, tokens, rows int, piece func(int32) string) error {
	if tokens != e.tok.NVocab() || rows != e.NVocab() {
		return fmt.Errorf("its vocabulary has %d tokens (%d rows), the model's %d (%d)", tokens, rows, e.tok.NVocab(), e.NVocab())
	}
	for i := range int32(tokens) {
		if a, b := piece(i), e.tok.Piece(i); a != b {
			return fmt.Errorf("token %d is %q, the model's is %q", i, a, b)
		}
	}
	return nil
}

// propose appends up to n tokens that the drafter takes for the most probable ones after tokens.
func (d *drafter) propose(ctx context.Context, dst []int32, slot int, tokens []int32, n int) ([]int32, error) {
	s := &d.slots[slot]
	same := 0
	for same < min(len(s.tokens), len(tokens)-1) && s.tokens[same] == tokens[same] {
		same++
	}
	s.tokens = append(s.tokens[:same], tokens[same:]...)
	for same < len(tokens)-d.maxBatch {
		if _, err := d.forward(ctx, slot, same, d.maxBatch, 0); err != nil {
			return dst, err
		}
		same += d.maxBatch
	}
	for range n {
		start := time.Now()
		logits, err := d.forward(ctx, slot, same, len(s.tokens)-same, 1)
		if err != nil {
			return dst, err
		}
		if len(s.tokens)-same == 1 {
			d.seconds += (time.Since(start).Seconds() - d.seconds) / 8
		}
		same = len(s.tokens)
		token, err := sample.Argmax(logits)
		if err != nil || logprob(logits[token], logSum(logits)) < draftLogprob || len(s.tokens) == d.nCtx {
			return dst, err
		}
		dst = append(dst, token)
		s.tokens = append(s.tokens, token)
	}
	s.tokens = s.tokens[:same] // the last one has no entry in the cache
	return dst, nil
}

// forward runs n tokens of a slot from position pos on.
func (d *drafter) forward(ctx context.Context, slot, pos, n, rows int) ([]float32, error) {
	s := &d.slots[slot]
	b := Batch{Tokens: s.tokens[pos : pos+n], Runs: []Run{{Seq: slot, Pos: pos, N: n, Rows: rows, Pages: s.pages}}}
	logits, err := d.backend.Forward(ctx, b)
	if err != nil {
		s.tokens = s.tokens[:0]
		return nil, err
	}
	if len(logits) != rows*d.vocab {
		return nil, errors.New("the draft model's backend returned a wrong number of logits")
	}
	return logits, nil
}
