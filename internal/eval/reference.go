package eval

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// Reference is a source of predictions that a model is compared with: NewModelReference or NewFileReference.
type Reference interface {
	nVocab() int
	// begin is called once, with whole chunks.
	begin(nCtx int, tokens []int32) error
	// open returns the rows of a chunk.
	open(ctx context.Context, chunk int, tokens []int32) chunkRows
}

// chunkRows reads the predictions of one chunk in their order.
type chunkRows interface {
	// read returns at most n rows, at least one. They are valid until the next call.
	read(n int) ([]referenceRow, error)
	close()
}

// referenceRow is a distribution of the next token.
type referenceRow interface {
	// compare returns the divergence of softmax(logits) from this distribution.
	compare(s *softmax, logits []float32, token int32) rowResult
}

// rowResult compares two predictions of one token.
type rowResult struct {
	nll, refNLL float64 // −ln p(token), in nats
	kld         float64 // Σ p_ref·(ln p_ref − ln p)
	sameTop     bool    // both have the same most probable token
}

// modelReference computes the predictions with a second model.
type modelReference struct {
	s    *engine.Engine
	save *LogitsWriter
}

// NewModelReference compares with the model in s, without rounding. If save is not nil, it receives the predictions.
func NewModelReference(s *engine.Engine, save *LogitsWriter) Reference {
	return &modelReference{s, save}
}

func (m *modelReference) nVocab() int { return m.s.NVocab() }

func (m *modelReference) begin(nCtx int, tokens []int32) error {
	if m.save == nil {
		return nil
	}
	return m.save.begin(nCtx, m.s.NVocab(), tokens)
}

func (m *modelReference) open(ctx context.Context, _ int, tokens []int32) chunkRows {
	r := &modelRows{ref: m}
	batches := func(yield func([]float32) bool) {
		tokens := withBOS(m.s, tokens)
		err := m.s.Evaluate(ctx, tokens[:len(tokens)-1], len(tokens)/2, func(_ int, logits []float32) error {
			if !yield(logits) {
				return errStopped
			}
			return nil
		})
		if err != errStopped {
			r.err = err
		}
	}
	r.next, r.stop = iter.Pull(batches)
	return r
}

// errStopped ends an Evaluate whose rows nobody wants.
var errStopped = errors.New("stopped")

// modelRows takes the reference's batches of logits one by one, while the judged model computes its own.
type modelRows struct {
	ref  *modelReference
	next func() ([]float32, bool)
	stop func()
	err  error
	left []float32 // of the current batch
	rows []referenceRow
}

func (r *modelRows) read(n int) ([]referenceRow, error) {
	nVocab := r.ref.s.NVocab()
	if len(r.left) == 0 {
		batch, ok := r.next()
		if !ok {
			if r.err == nil {
				r.err = errors.New("the reference has fewer rows than the model")
			}
			return nil, fmt.Errorf("reference: %w", r.err)
		}
		r.left = batch
		if r.ref.save != nil {
			if err := r.ref.save.write(batch); err != nil {
				return nil, err
			}
		}
	}
	r.rows = r.rows[:0]
	for len(r.left) > 0 && len(r.rows) < n {
		r.rows = append(r.rows, logitsRow(r.left[:nVocab]))
		r.left = r.left[nVocab:]
	}
	return r.rows, nil
}

func (r *modelRows) close() { r.stop() }

// logitsRow is a reference's prediction as logits.
type logitsRow []float32

func (a logitsRow) compare(s *softmax, logits []float32, token int32) rowResult {
	lse, argmax := s.logSum(logits)
	refLSE, diff, refArgmax := s.logSumDiff(a, logits)
	return rowResult{
		nll:     lse - float64(logits[token]),
		refNLL:  refLSE - float64(a[token]),
		kld:     diff - (refLSE - lse),
		sameTop: argmax == refArgmax,
	}
}

type fileReference struct{ l *LogitsFile }

// NewFileReference compares with saved predictions.
func NewFileReference(l *LogitsFile) Reference { return fileReference{l} }

func (f fileReference) nVocab() int { return f.l.NVocab }

func (f fileReference) begin(nCtx int, tokens []int32) error {
	if nCtx != f.l.NCtx {
		return fmt.Errorf("%s: made with a context of %d tokens, not of %d", f.l.name, f.l.NCtx, nCtx)
	}
	for i, t := range tokens {
		if i >= len(f.l.Tokens) || t != f.l.Tokens[i] {
			return fmt.Errorf("%s: made from another text or with another tokenizer: token %d differs", f.l.name, i)
		}
	}
	return nil
}

func (f fileReference) open(_ context.Context, chunk int, _ []int32) chunkRows {
	return &fileRows{l: f.l, chunk: chunk}
}

type fileRows struct {
	l          *LogitsFile
	chunk, row int
	buf        []byte
	rows       []referenceRow
}

func (r *fileRows) read(n int) ([]referenceRow, error) {
	n = min(n, batchRows, scoredRows(r.l.NCtx)-r.row)
	size := rowBytes(r.l.NVocab)
	r.buf = append(r.buf[:0], make([]byte, n*size)...)
	if err := r.l.readRows(r.chunk, r.row, r.buf); err != nil {
		return nil, err
	}
	r.row += n
	r.rows = r.rows[:0]
	for i := range n {
		r.rows = append(r.rows, savedRow(r.buf[i*size:][:size]))
	}
	return r.rows, nil
}

func (r *fileRows) close() {}

// compare follows llama-perplexity in leaving out tokens at the cutoff.
func (r savedRow) compare(s *softmax, logits []float32, token int32) rowResult {
	scale, minimum := float64(r.scale()), float64(r.minimum())
	p := newLevels(scale, minimum)
	lse, argmax := s.logSum(logits)
	best, refArgmax, kld := r.level(0), 0, 0.0
	levels := r[rowHeader:][:2*len(logits)]
	for i, v := range logits {
		level := binary.LittleEndian.Uint16(levels[2*i:])
		if level > best {
			best, refArgmax = level, i
		}
		kld += p.probability(level) * (scale*float64(level) + minimum + lse - float64(v))
	}
	return rowResult{
		nll:     lse - float64(logits[token]),
		refNLL:  -(scale*float64(r.level(int(token))) + minimum),
		kld:     kld,
		sameTop: argmax == refArgmax,
	}
}

// levels gives the probabilities of a row's levels: e^(scale·level + minimum) is the product of two entries, one for
// each byte of the level.
type levels struct {
	high, low [256]float64
	first     int // the least level above the cutoff
}

func newLevels(scale, minimum float64) *levels {
	t := &levels{}
	for i := range 256 {
		t.high[i] = math.Exp(scale*float64(i<<8) + minimum)
		t.low[i] = math.Exp(scale * float64(i))
	}
	if minimum > logitsCutoff {
		return t
	}
	t.first = logitsLevels + 1
	if scale > 0 {
		t.first = int(min(math.Floor((logitsCutoff-minimum)/scale)+1, logitsLevels+1))
	}
	clear(t.high[:t.first>>8])
	return t
}

// probability is 0 for levels at the cutoff.
func (t *levels) probability(level uint16) float64 {
	if int(level>>8) == t.first>>8 && int(level) < t.first {
		return 0
	}
	return t.high[level>>8] * t.low[level&255]
}
