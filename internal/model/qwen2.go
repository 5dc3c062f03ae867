package model

// qwen2 is Qwen 2 and 2.5: biases on queries, keys and values; dimension i rotates with i + RopeDim/2.
func qwen2(p *Program, has func(tensor string) bool) {
	p.RopeNeox = true
	p.decoder(true, has)
}
