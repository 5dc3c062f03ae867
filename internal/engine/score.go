package engine

// Score returns the step of a token that was not chosen but given: its log-probability by logits, and the top best candidates.
func (e *Engine) Score(logits []float32, token int32, top int) Step {
	sum := logSum(logits)
	st := Step{Token: token, Logprob: logprob(logits[token], sum), Candidates: e.topLogits(logits, top)}
	for i := range st.Candidates {
		st.Candidates[i].Logprob = logprob(st.Candidates[i].Logit, sum)
	}
	return st
}
