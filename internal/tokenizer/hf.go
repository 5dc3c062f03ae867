package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// hfTokenizer is the part of tokenizer.json that decides ids.
type hfTokenizer struct {
	AddedTokens []struct {
		ID         int32  `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Special    bool   `json:"special"`
	} `json:"added_tokens"`
	Normalizer    *hfNode `json:"normalizer"`
	PreTokenizer  *hfNode `json:"pre_tokenizer"`
	PostProcessor *hfNode `json:"post_processor"`
	Decoder       *hfNode `json:"decoder"`
	Model         struct {
		Type         string           `json:"type"`
		Vocab        map[string]int32 `json:"vocab"`
		Merges       []hfMerge        `json:"merges"`
		UnkToken     *string          `json:"unk_token"`
		Dropout      float64          `json:"dropout"`
		Prefix       string           `json:"continuing_subword_prefix"`
		Suffix       string           `json:"end_of_word_suffix"`
		FuseUnk      bool             `json:"fuse_unk"`
		ByteFallback bool             `json:"byte_fallback"`
		IgnoreMerges bool             `json:"ignore_merges"`
	} `json:"model"`
}

// hfMerge reads both forms in use: "left right" and ["left", "right"].
type hfMerge struct{ left, right string }

func (m *hfMerge) UnmarshalJSON(b []byte) (err error) {
	if len(b) > 0 && b[0] == '[' {
		var pair []string
		if err = json.Unmarshal(b, &pair); err == nil && len(pair) != 2 {
			err = fmt.Errorf("tokenizer: merge %s has %d parts, expected 2", b, len(pair))
		}
		if err == nil {
			m.left, m.right = pair[0], pair[1]
		}
		return err
	}
	var s string
	if err = json.Unmarshal(b, &s); err == nil {
		m.left, m.right, err = splitMerge(s)
	}
	return err
}

// hfConfig is the part of tokenizer_config.json that decides ids. Tokens are strings or objects.
type hfConfig struct {
	BOS    hfToken `json:"bos_token"`
	EOS    hfToken `json:"eos_token"`
	UNK    hfToken `json:"unk_token"`
	PAD    hfToken `json:"pad_token"`
	AddBOS bool    `json:"add_bos_token"`
	AddEOS bool    `json:"add_eos_token"`
}

type hfToken string

func (t *hfToken) UnmarshalJSON(b []byte) error {
	var object struct {
		Content string `json:"content"`
	}
	if len(b) > 0 && b[0] == '{' {
		err := json.Unmarshal(b, &object)
		*t = hfToken(object.Content)
		return err
	}
	return json.Unmarshal(b, (*string)(t))
}

// FromHF makes a tokenizer from the contents of tokenizer.json and tokenizer_config.json (which may be nil).
// A node of a kind that is not known is an error that names it.
func FromHF(tokenizerJSON, tokenizerConfig []byte) (*Tokenizer, error) {
	var h hfTokenizer
	if err := json.Unmarshal(tokenizerJSON, &h); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	var c hfConfig
	if len(tokenizerConfig) > 0 {
		if err := json.Unmarshal(tokenizerConfig, &c); err != nil {
			return nil, fmt.Errorf("tokenizer_config.json: %w", err)
		}
	}
	s, err := h.spec()
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	if err := h.specials(s, &c); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	if s.kind == byteLevel {
		s.pre = preName(s)
	}
	return build(*s)
}

// spec reads everything but the special tokens' roles.
func (h *hfTokenizer) spec() (*spec, error) {
	m := &h.Model
	if m.Type != "" && m.Type != "BPE" || m.Vocab == nil {
		return nil, fmt.Errorf("model type is %q, supported is BPE", m.Type)
	}
	if m.Prefix != "" || m.Suffix != "" || m.Dropout != 0 {
		return nil, fmt.Errorf("model has continuing_subword_prefix %q, end_of_word_suffix %q, dropout %g; none of these is supported", m.Prefix, m.Suffix, m.Dropout)
	}
	s := &spec{kind: sentencePiece, ignoreMerges: m.IgnoreMerges, fuseUnknown: m.FuseUnk}
	if err := h.readVocab(s); err != nil {
		return nil, err
	}
	if err := h.readNodes(s); err != nil {
		return nil, err
	}
	if s.kind == sentencePiece && m.ByteFallback {
		for id, text := range s.tokens {
			if _, ok := byteToken(text); ok && s.attrs[id] == typeNormal {
				s.attrs[id] = typeByte
			}
		}
	}
	var err error
	s.merges, err = parseMerges(s.tokens, func(i int) (string, string, error) {
		return m.Merges[i].left, m.Merges[i].right, nil
	}, len(m.Merges))
	return s, err
}

// readVocab lists tokens by id. Ids without token become unused ones, as GGUF has it.
func (h *hfTokenizer) readVocab(s *spec) error {
	n := len(h.Model.Vocab) + len(h.AddedTokens)
	top := int32(-1)
	for _, id := range h.Model.Vocab {
		top = max(top, id)
	}
	for _, a := range h.AddedTokens {
		top = max(top, a.ID)
	}
	if int(top) >= 2*n+1024 {
		return fmt.Errorf("token id %d in a vocabulary of %d tokens", top, n)
	}
	s.tokens = make([]string, top+1)
	s.attrs = make([]uint8, top+1)
	for text, id := range h.Model.Vocab {
		if id < 0 || s.attrs[id] != 0 {
			return fmt.Errorf("model.vocab: id %d of %q is negative or used twice", id, text)
		}
		s.tokens[id], s.attrs[id] = text, typeNormal
	}
	for _, a := range h.AddedTokens {
		if a.ID < 0 || s.attrs[a.ID] != 0 && s.tokens[a.ID] != a.Content {
			return fmt.Errorf("added_tokens: id %d of %q is negative or used by another token", a.ID, a.Content)
		}
		attr := uint8(typeUser)
		if a.Special {
			attr = typeControl
		}
		if a.LStrip {
			attr |= flagLStrip
		}
		if a.RStrip {
			attr |= flagRStrip
		}
		if a.SingleWord {
			attr |= flagSingleWord
		}
		s.tokens[a.ID], s.attrs[a.ID] = a.Content, attr
	}
	for id, a := range s.attrs {
		if a == 0 {
			s.tokens[id], s.attrs[id] = fmt.Sprintf("[PAD%d]", id), typeUnused
		}
	}
	return nil
}

// specials finds the roles of special tokens: names from tokenizer_config.json, use from the post-processor.
func (h *hfTokenizer) specials(s *spec, c *hfConfig) error {
	ids := make(map[string]int32, len(s.tokens))
	for id, t := range s.tokens {
		ids[t] = int32(id)
	}
	s.eot = -1
	roles := []struct {
		name string
		to   *int32
	}{{string(c.BOS), &s.bos}, {string(c.EOS), &s.eos}, {string(c.UNK), &s.unk}, {string(c.PAD), &s.pad}}
	for _, r := range roles {
		*r.to = -1
		if id, ok := ids[r.name]; ok && r.name != "" {
			*r.to = id
		}
	}
	if u := h.Model.UnkToken; u != nil && *u != "" {
		id, ok := ids[*u]
		if !ok {
			return fmt.Errorf("model.unk_token %q is not in the vocabulary", *u)
		}
		s.unk = id
		if s.kind == sentencePiece {
			s.attrs[id] = s.attrs[id]&^typeMask | typeUnknown
		}
	}
	before, after, found, err := h.PostProcessor.template()
	if err != nil {
		return err
	}
	if !found {
		s.addBOS, s.addEOS = c.AddBOS && s.bos >= 0, c.AddEOS && s.eos >= 0
		return nil
	}
	if len(before) > 1 || len(after) > 1 {
		return fmt.Errorf("post_processor adds %q before and %q after a text; at most one token each is supported", before, after)
	}
	for _, r := range []struct {
		names []string
		id    *int32
		add   *bool
	}{{before, &s.bos, &s.addBOS}, {after, &s.eos, &s.addEOS}} {
		if len(r.names) == 0 {
			continue
		}
		id, ok := ids[r.names[0]]
		if !ok {
			return fmt.Errorf("post_processor adds %q, which is not in the vocabulary", r.names[0])
		}
		*r.id, *r.add = id, true
	}
	return nil
}

// preName returns GGUF's name of a splitting, "" if it has none.
func preName(s *spec) string {
	for _, name := range []string{"default", "gpt-2", "smollm", "qwen2", "qwen35", "llama-bpe", "smaug-bpe", "gpt-4o", "tekken"} {
		if p := preTokenizer(name); sameRules(p.rules, s.rules) && p.ignoreMerges == s.ignoreMerges {
			return name
		}
	}
	return ""
}

// replaces reports whether a normalizer or decoder replaces from by to.
func (n *hfNode) replaces(from, to string) bool {
	return n.Type == "Replace" && n.Pattern.String != nil && *n.Pattern.String == from && n.Content == to
}

func joinTypes(nodes []*hfNode) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Type)
	}
	return strings.Join(names, ", ")
}
