package tokenizer

// IsControl says whether id is a token that stands for no text: control tokens, the unknown token, and those that end a
// generation.
func (t *Tokenizer) IsControl(id int32) bool {
	return id >= 0 && int(id) < len(t.tokens) && t.isControl(id)
}
