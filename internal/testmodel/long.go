package testmodel

import (
	_ "embed" // the reference results
	"encoding/json"
	"fmt"
)

//go:embed long.json
var long []byte

// LongRow has the first logits at a position of the text LongText.
type LongRow struct {
	Position int       `json:"position"`
	Logits   []float32 `json:"logits"`
}

// LongRows returns, by family, logits at positions far beyond the trained context, in the order of positions (long.py).
func LongRows() (map[string][]LongRow, error) {
	rows := map[string][]LongRow{}
	if err := json.Unmarshal(long, &rows); err != nil {
		return nil, fmt.Errorf("testmodel: long.json: %w", err)
	}
	return rows, nil
}

// LongText returns the first n tokens of the text of LongRows.
func LongText(n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(3 + (37*i*i+12*i+5)%250)
	}
	return tokens
}
