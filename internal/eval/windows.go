package eval

import "fmt"

// Definition says which tokens of a text a perplexity scores, and with how much context.
type Definition string

const (
	// LlamaCPP cuts the text into chunks of n_ctx tokens, evaluates each alone, its first token replaced by BOS if the
	// model adds one, and scores the predictions made at positions n_ctx/2 … n_ctx−2.
	LlamaCPP Definition = "llama.cpp"
	// Sliding moves a window of n_ctx tokens over the text by a stride and scores in each the tokens that no earlier
	// one held (Hugging Face's recipe for models of fixed length). With a stride of n_ctx the windows are disjoint and
	// all tokens but the first of each are scored.
	Sliding Definition = "sliding"
)

// window is a part of a text that is evaluated at once: tokens[begin:end], of which those from first on are scored.
type window struct{ begin, end, first int }

const minCtx = 4

// windows returns the windows over n tokens.
func windows(def Definition, n, nCtx, stride int) ([]window, error) {
	if nCtx < minCtx {
		return nil, fmt.Errorf("context of %d tokens: expected at least %d", nCtx, minCtx)
	}
	var w []window
	switch def {
	case LlamaCPP:
		if n < 2*nCtx {
			return nil, fmt.Errorf("the text has %d tokens, at least %d are needed for a context of %d (use a longer text or a "+
				"smaller --ctx)", n, 2*nCtx, nCtx)
		}
		for begin := 0; begin+nCtx <= n; begin += nCtx {
			w = append(w, window{begin, begin + nCtx, begin + nCtx/2 + 1})
		}
	case Sliding:
		if n < 2 {
			return nil, fmt.Errorf("the text has %d tokens, at least 2 are needed", n)
		}
		if stride < 1 || stride > nCtx {
			return nil, fmt.Errorf("stride of %d tokens: expected 1 to the context of %d", stride, nCtx)
		}
		for begin, end := 0, 0; end < n; begin += stride {
			first := max(end, begin+1)
			end = min(begin+nCtx, n)
			if first < end {
				w = append(w, window{begin, end, first})
			}
		}
	default:
		return nil, fmt.Errorf("definition %q: expected %s or %s", def, LlamaCPP, Sliding)
	}
	return w, nil
}
