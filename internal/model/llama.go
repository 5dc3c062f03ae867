package model

// llama is Llama 1 to 3 and its many relatives (Mistral, SmolLM2, TinyLlama): no biases, neighbouring dimensions rotate together (GGUF
// permutes queries and keys so), Llama 3's frequency divisors if there are any, and a head that may be the embedding.
func llama(p *Program, has func(tensor string) bool) {
	if has(ropeFreqs) {
		p.RopeFreqs = ropeFreqs
	}
	p.decoder(false, has)
}
