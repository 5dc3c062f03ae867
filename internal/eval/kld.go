package eval

import (
	"context"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// KLDOptions controls KLD.
type KLDOptions struct {
	NCtx   int    // tokens per chunk
	Chunks int    // chunks to compare; 0 or more than the text has = all
	State  *State // of earlier runs; may be nil
	// Progress, if set, is called after every chunk with the mean divergence so far.
	Progress func(done, total int, meanKLD float64)
}

// KLDResult compares a model's predictions with a reference's, token by token. Logarithms are natural.
type KLDResult struct {
	Chunks int `json:"chunks"`
	Tokens int `json:"tokens"` // compared predictions

	KLD             Estimate     `json:"kld"` // nats per token
	KLDDistribution Distribution `json:"kld_distribution"`
	SameTop         Estimate     `json:"same_top"` // share of predictions with the reference's most probable token

	Perplexity          Estimate `json:"perplexity"`
	ReferencePerplexity Estimate `json:"reference_perplexity"`
	LogRatio            Estimate `json:"ln_perplexity_ratio"` // of the model's to the reference's
	Ratio               Estimate `json:"perplexity_ratio"`
	Difference          Estimate `json:"perplexity_difference"`
	Correlation         float64  `json:"ln_perplexity_correlation"`

	// Change of the probability of the text's own next token.
	DeltaP             Estimate     `json:"delta_p"`
	DeltaPRMS          Estimate     `json:"delta_p_rms"`
	DeltaPDistribution Distribution `json:"delta_p_distribution"`
}

// kldRows holds what is known of compared predictions. It is also what State keeps of a chunk.
type kldRows struct {
	NLL     []float32 `json:"nll"`
	RefNLL  []float32 `json:"ref_nll"`
	KLD     []float32 `json:"kld"`
	SameTop int       `json:"same_top"`
}

func (r *kldRows) add(v rowResult) {
	r.NLL = append(r.NLL, float32(v.nll))
	r.RefNLL = append(r.RefNLL, float32(v.refNLL))
	r.KLD = append(r.KLD, float32(v.kld))
	if v.sameTop {
		r.SameTop++
	}
}

func (r *kldRows) merge(o *kldRows) {
	r.NLL = append(r.NLL, o.NLL...)
	r.RefNLL = append(r.RefNLL, o.RefNLL...)
	r.KLD = append(r.KLD, o.KLD...)
	r.SameTop += o.SameTop
}

// KLD measures the Kullback–Leibler divergence of the model in s from ref on the second half of each chunk of tokens (see
// LlamaCPP).
func KLD(ctx context.Context, s *engine.Engine, ref Reference, tokens []int32, opt KLDOptions) (KLDResult, error) {
	var r KLDResult
	if opt.NCtx < minCtx || opt.NCtx > s.NCtx() {
		return r, fmt.Errorf("context of %d tokens: expected %d to %d", opt.NCtx, minCtx, s.NCtx())
	}
	if s.NVocab() != ref.nVocab() {
		return r, fmt.Errorf("the model predicts %d tokens, the reference %d: only models with the same vocabulary can "+
			"be compared", s.NVocab(), ref.nVocab())
	}
	chunks := len(tokens) / opt.NCtx
	if chunks == 0 {
		return r, fmt.Errorf("the text has %d tokens, at least %d are needed (use a longer text or a smaller --ctx)", len(tokens),
			opt.NCtx)
	}
	if opt.Chunks > 0 {
		chunks = min(chunks, opt.Chunks)
	}
	tokens = tokens[:chunks*opt.NCtx]
	if err := ref.begin(opt.NCtx, tokens); err != nil {
		return r, err
	}
	var all kldRows
	c := comparison{s: s, ref: ref, softmax: newSoftmax()}
	for i := range chunks {
		part, err := c.chunk(ctx, i, tokens[i*opt.NCtx:][:opt.NCtx], opt.State)
		if err != nil {
			return r, fmt.Errorf("chunk %d of %d: %w", i+1, chunks, err)
		}
		all.merge(part)
		if opt.Progress != nil {
			opt.Progress(i+1, chunks, momentsOf(all.KLD, identity).estimate().Value)
		}
	}
	r = all.result()
	r.Chunks = chunks
	return r, nil
}

// comparison compares two models' predictions.
type comparison struct {
	s       *engine.Engine
	ref     Reference
	softmax *softmax
	results []rowResult
}

func (c *comparison) chunk(ctx context.Context, i int, tokens []int32, state *State) (*kldRows, error) {
	part := &kldRows{}
	known, err := state.get(i, part)
	if known && err == nil {
		n := scoredRows(len(tokens))
		if len(part.NLL) != n || len(part.RefNLL) != n || len(part.KLD) != n {
			err = fmt.Errorf("%s: the result of chunk %d has not %d rows (remove the file)", state.path, i, n)
		}
	}
	if known || err != nil {
		return part, err
	}
	if err := c.compute(ctx, i, tokens, part); err != nil {
		return nil, err
	}
	return part, state.put(i, part)
}

func (c *comparison) compute(ctx context.Context, i int, tokens []int32, part *kldRows) error {
	reference := c.ref.open(ctx, i, tokens)
	defer reference.close()
	tokens = withBOS(c.s, tokens)
	nVocab := c.s.NVocab()
	return c.s.Evaluate(ctx, tokens[:len(tokens)-1], len(tokens)/2, func(pos int, logits []float32) error {
		for len(logits) > 0 {
			rows, err := reference.read(len(logits) / nVocab)
			if err != nil {
				return err
			}
			c.results = append(c.results[:0], make([]rowResult, len(rows))...)
			parallel.Do(len(rows), func(i int) {
				c.results[i] = rows[i].compare(c.softmax, logits[i*nVocab:][:nVocab], tokens[pos+i+1])
			})
			for i, v := range c.results {
				if !finite(v.kld) || !finite(v.nll) || !finite(v.refNLL) {
					return notFinite(pos + i)
				}
				part.add(v)
			}
			pos, logits = pos+len(rows), logits[len(rows)*nVocab:]
		}
		return nil
	})
}

func identity(v float64) float64 { return v }

func (r *kldRows) result() KLDResult {
	nll, ref := momentsOf(r.NLL, identity).estimate(), momentsOf(r.RefNLL, identity).estimate()
	cov := covariance(r.NLL, r.RefNLL)
	deltaP := make([]float32, len(r.NLL))
	for i := range deltaP {
		deltaP[i] = float32(math.Exp(-float64(r.NLL[i])) - math.Exp(-float64(r.RefNLL[i])))
	}
	ppl, refPPL := exponential(nll), exponential(ref)
	ratio := Estimate{nll.Value - ref.Value, math.Sqrt(max(nll.StdErr*nll.StdErr+ref.StdErr*ref.StdErr-2*cov, 0))}
	square := momentsOf(deltaP, func(v float64) float64 { return v * v }).estimate()
	rms := Estimate{Value: math.Sqrt(square.Value)}
	if rms.Value > 0 {
		rms.StdErr = square.StdErr / (2 * rms.Value)
	}
	correlation := 1.0
	if v := nll.StdErr * ref.StdErr; v > 0 {
		correlation = cov / v
	}
	return KLDResult{
		Tokens:              len(r.NLL),
		KLD:                 momentsOf(r.KLD, identity).estimate(),
		KLDDistribution:     distribution(r.KLD),
		SameTop:             share(r.SameTop, len(r.NLL)),
		Perplexity:          ppl,
		ReferencePerplexity: refPPL,
		LogRatio:            ratio,
		Ratio:               exponential(ratio),
		Difference: Estimate{ppl.Value - refPPL.Value,
			math.Sqrt(max(ppl.StdErr*ppl.StdErr+refPPL.StdErr*refPPL.StdErr-2*ppl.Value*refPPL.Value*cov, 0))},
		Correlation:        correlation,
		DeltaP:             momentsOf(deltaP, identity).estimate(),
		DeltaPRMS:          rms,
		DeltaPDistribution: distribution(deltaP),
	}
}

// exponential returns e^x, with the error to first order.
func exponential(x Estimate) Estimate {
	v := math.Exp(x.Value)
	return Estimate{v, v * x.StdErr}
}
