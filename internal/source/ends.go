package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// furtherEnds returns those of ids that are tokens and that the tokenizer does not know as ends, each once.
func furtherEnds(tok *tokenizer.Tokenizer, ids []int32) (ends []int32) {
	for _, id := range ids {
		if id >= 0 && int(id) < tok.NVocab() && !tok.IsEOG(id) && !slices.Contains(ends, id) {
			ends = append(ends, id)
		}
	}
	return ends
}

// idList reads a token id, a list of them, or null.
type idList []int32

func (l *idList) UnmarshalJSON(b []byte) error {
	*l = nil
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]int32)(l))
	}
	var id *int32
	if err := json.Unmarshal(b, &id); err != nil || id == nil {
		return err
	}
	*l = idList{*id}
	return nil
}

// Warnings implements Model.
func (s *hfSource) Warnings() []string { return s.warnings }

// Ends implements Model: generation_config.json decides; without it, or if it names none, config.json (as generate of
// transformers does).
func (s *hfSource) Ends() ([]int32, error) {
	tok, err := s.Tokenizer()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"generation_config.json", configName} {
		path := filepath.Join(s.dir, name)
		b, err := readOptional(path)
		if err != nil || b == nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		var c struct {
			Ends idList `json:"eos_token_id"`
			Text struct {
				Ends idList `json:"eos_token_id"`
			} `json:"text_config"`
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return nil, fmt.Errorf("%s: eos_token_id: %w", path, err)
		}
		if ids := append(c.Ends, c.Text.Ends...); len(ids) > 0 {
			s.warnings = nil
			for _, id := range ids {
				if id < 0 || int(id) >= tok.NVocab() {
					s.warnings = append(s.warnings, fmt.Sprintf("%s: eos_token_id names %d, but there are %d tokens: it is ignored", path,
						id, tok.NVocab()))
				}
			}
			return furtherEnds(tok, ids), nil
		}
	}
	return nil, nil
}

// withSpecials adds to the text of tokenizer_config.json the special tokens that only special_tokens_map.json names.
func (s *hfSource) withSpecials(config []byte) ([]byte, error) {
	path := filepath.Join(s.dir, "special_tokens_map.json")
	b, err := readOptional(path)
	if err != nil || b == nil {
		return config, err
	}
	var special, all map[string]json.RawMessage
	if err := infile.DecodeJSON(b, &special); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(config) > 0 {
		if err := json.Unmarshal(config, &all); err != nil {
			return config, nil // the tokenizer says what is wrong
		}
	}
	merged := map[string]json.RawMessage{}
	for _, key := range []string{"bos_token", "eos_token", "unk_token", "pad_token"} {
		if v, ok := special[key]; ok {
			merged[key] = v
		}
	}
	for key, v := range all {
		if _, named := merged[key]; !named || string(v) != "null" {
			merged[key] = v
		}
	}
	if maps.EqualFunc(merged, all, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
		return config, nil
	}
	return json.Marshal(merged)
}
