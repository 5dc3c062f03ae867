package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
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
	Model         hfModel `json:"model"`
}

// hfModel is the part of it that merges pieces.
type hfModel struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"` // BPE: ids by token; Unigram: pairs of token and score
	UnkID        *int32          `json:"unk_id"`
	Merges       hfMerges        `json:"merges"`
	UnkToken     *string         `json:"unk_token"`
	Dropout      float64         `json:"dropout"`
	Prefix       string          `json:"continuing_subword_prefix"`
	Suffix       string          `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
}

// maxMerges bounds merges: the largest known vocabulary, of 262144 tokens, has 514906.
const maxMerges = 1 << 20

// hfMerges takes the memory that it needs at once: growing lists take more than twice as much. The loop that counts is not
// infile.CheckJSON's, which counts brackets and commas of a whole text at any depth: this one needs the depth, that one no depth.
type hfMerges []hfMerge

func (m *hfMerges) UnmarshalJSON(b []byte) error {
	n, depth, inString := 1, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ',' && depth == 1:
			n++
		}
	}
	if n > maxMerges {
		return fmt.Errorf("%d merges, expected at most %d", n, maxMerges)
	}
	list := make([]hfMerge, 0, n)
	err := json.Unmarshal(b, &list)
	*m = list
	return err
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

// read reads tokenizer_config.json; nothing changes if there is none.
func (c *hfConfig) read(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := infile.DecodeJSON(b, c); err != nil {
		return fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return nil
}

// FromHF makes a tokenizer from the contents of tokenizer.json and tokenizer_config.json (which may be nil).
// A node of a kind that is not known is an error that names it.
func FromHF(tokenizerJSON, tokenizerConfig []byte) (*Tokenizer, error) {
	var h hfTokenizer
	if err := infile.DecodeJSON(tokenizerJSON, &h); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	var c hfConfig
	if err := c.read(tokenizerConfig); err != nil {
		return nil, err
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
	if m.Type != "" && m.Type != "BPE" && m.Type != "Unigram" {
		return nil, fmt.Errorf("model type is %q, supported are BPE and Unigram", m.Type)
	}
	if m.Prefix != "" || m.Suffix != "" || m.Dropout != 0 {
		return nil, fmt.Errorf("model has continuing_subword_prefix %q, end_of_word_suffix %q, dropout %g; none of these is supported",
			m.Prefix, m.Suffix, m.Dropout)
	}
	s := &spec{kind: sentencePiece, ignoreMerges: m.IgnoreMerges, fuseUnknown: m.FuseUnk}
	if m.Type == "Unigram" {
		s.kind, s.fuseUnknown = unigram, true
	}
	if err := h.readVocab(s); err != nil {
		return nil, err
	}
	if err := h.readNodes(s); err != nil {
		return nil, err
	}
	if s.kind != byteLevel && m.ByteFallback {
		for id, text := range s.tokens {
			if _, ok := byteToken(text); ok && s.attrs[id] == typeNormal {
				s.attrs[id] = typeByte
			}
		}
	}
	if s.kind == unigram {
		return s, nil
	}
	var err error
	s.merges, err = parseMerges(s.tokens, func(i int) (string, string, error) {
		return m.Merges[i].left, m.Merges[i].right, nil
	}, len(m.Merges))
	return s, err
}

// modelVocab returns the model's own tokens; of Unigram it also sets the scores.
func (h *hfTokenizer) modelVocab(s *spec) (map[string]int32, error) {
	vocab := map[string]int32{}
	if s.kind != unigram {
		if err := json.Unmarshal(h.Model.Vocab, &vocab); err != nil {
			return nil, fmt.Errorf("model.vocab of BPE is not an object of ids: %w", err)
		}
		return vocab, nil
	}
	var pieces []unigramPiece
	if err := json.Unmarshal(h.Model.Vocab, &pieces); err != nil {
		return nil, fmt.Errorf("model.vocab of Unigram is not a list of pairs of piece and score: %w", err)
	}
	s.weights = make([]float64, len(pieces))
	for id, p := range pieces {
		if _, dup := vocab[p.text]; dup {
			return nil, fmt.Errorf("model.vocab: piece %d, %q, occurs twice", id, p.text)
		}
		vocab[p.text], s.weights[id] = int32(id), p.score
	}
	return vocab, nil
}

// unigramPiece is a pair [text, score].
type unigramPiece struct {
	text  string
	score float64
}

func (p *unigramPiece) UnmarshalJSON(b []byte) error {
	pair := [2]any{&p.text, &p.score}
	return json.Unmarshal(b, &pair)
}

// readVocab lists tokens by id. Ids without token become unused ones, as GGUF has it.
func (h *hfTokenizer) readVocab(s *spec) error {
	vocab, err := h.modelVocab(s)
	if err != nil {
		return err
	}
	n := len(vocab) + len(h.AddedTokens)
	top := int32(-1)
	for _, id := range vocab {
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
	for text, id := range vocab {
		if id < 0 || s.attrs[id] != 0 {
			return fmt.Errorf("model.vocab: id %d of %q is negative or used twice", id, text)
		}
		s.tokens[id], s.attrs[id] = text, typeNormal
	}
	if err := h.readAdded(s); err != nil {
		return err
	}
	for id, a := range s.attrs {
		if a == 0 {
			s.tokens[id], s.attrs[id] = fmt.Sprintf("[PAD%d]", id), typeUnused
		}
	}
	if s.kind == unigram { // added tokens beyond the model's have no score
		s.weights = append(s.weights, make([]float64, len(s.tokens)-len(s.weights))...)
	}
	return nil
}

func (h *hfTokenizer) readAdded(s *spec) error {
	for _, a := range h.AddedTokens {
		if a.ID < 0 || s.attrs[a.ID] != 0 && s.tokens[a.ID] != a.Content {
			return fmt.Errorf("added_tokens: id %d of %q is negative or used by another token", a.ID, a.Content)
		}
		attr := uint8(typeUser)
		if a.Special {
			attr = typeControl
		}
		for _, f := range []struct {
			on   bool
			flag uint8
		}{{a.LStrip, flagLStrip}, {a.RStrip, flagRStrip}, {a.SingleWord, flagSingleWord}} {
			if f.on {
				attr |= f.flag
			}
		}
		s.tokens[a.ID], s.attrs[a.ID] = a.Content, attr
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
	if err := h.Model.unknown(s, ids); err != nil {
		return err
	}
	return h.added(s, c, ids)
}

// unknown finds the token for what is not in the vocabulary, as the model names it.
func (m *hfModel) unknown(s *spec, ids map[string]int32) error {
	if id := m.UnkID; s.kind == unigram && id != nil {
		if *id < 0 || int(*id) >= len(s.tokens) {
			return fmt.Errorf("model.unk_id %d is not in the vocabulary of %d tokens", *id, len(s.tokens))
		}
		s.unk = *id
		s.attrs[s.unk] = s.attrs[s.unk]&^typeMask | typeUnknown
	}
	if u := m.UnkToken; u != nil && *u != "" {
		id, ok := ids[*u]
		if !ok {
			return fmt.Errorf("model.unk_token %q is not in the vocabulary", *u)
		}
		s.unk = id
		if s.kind == sentencePiece {
			s.attrs[id] = s.attrs[id]&^typeMask | typeUnknown
		}
	}
	return nil
}

// added finds which tokens are added before and after a text: those of the post-processor, or else of the configuration.
func (h *hfTokenizer) added(s *spec, c *hfConfig, ids map[string]int32) error {
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
