package source

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const (
	keyTokenizer    = "tokenizer.ggml.model"
	keyPre          = "tokenizer.ggml.pre"
	keyTokens       = "tokenizer.ggml.tokens"
	keyScores       = "tokenizer.ggml.scores"
	keyTypes        = "tokenizer.ggml.token_type"
	keyMerges       = "tokenizer.ggml.merges"
	keyAddBOS       = "tokenizer.ggml.add_bos_token"
	keyAddEOS       = "tokenizer.ggml.add_eos_token"
	keyEnds         = "tokenizer.ggml.eos_token_ids"
	keySpacePrefix  = "tokenizer.ggml.add_space_prefix"
	keyChatTemplate = "tokenizer.chat_template"
)

// isVocabulary reports whether a metadata key holds a table of the tokenizer, which a container stores in its own section.
func isVocabulary(key string) bool {
	return slices.Contains([]string{keyTokens, keyScores, keyTypes, keyMerges, "tokenizer.huggingface.json"}, key)
}

// specialKeys pairs the keys of special tokens with their fields.
func specialKeys(v *tokenizer.GGUFVocab) map[string]*int32 {
	return map[string]*int32{
		"tokenizer.ggml.bos_token_id":     &v.BOS,
		"tokenizer.ggml.eos_token_id":     &v.EOS,
		"tokenizer.ggml.unknown_token_id": &v.UNK,
		"tokenizer.ggml.padding_token_id": &v.PAD,
		"tokenizer.ggml.eot_token_id":     &v.EOT,
	}
}

// readVocab collects the tokenizer's keys from GGUF metadata. warn receives what is wrong but not used.
func readVocab(m *gguf.Metadata, warn func(string)) (v tokenizer.GGUFVocab, err error) {
	if v.Model, err = m.String(keyTokenizer); err != nil {
		return v, err
	}
	if v.Pre, err = m.StringOr(keyPre, ""); err != nil {
		return v, err
	}
	if v.Tokens, err = m.Strings(keyTokens); err != nil {
		return v, err
	}
	if v.Scores, err = m.Float32s(keyScores); absent(&err) {
		return v, err
	}
	if v.Types, err = m.Int32s(keyTypes); absent(&err) {
		return v, err
	}
	if v.Merges, err = m.Strings(keyMerges); absent(&err) {
		return v, err
	}
	addBOS, addEOS, prefix := tokenizer.GGUFDefaults(v.Model, v.Pre)
	for _, b := range []struct {
		key string
		def bool
		to  *bool
	}{{keyAddBOS, addBOS, &v.AddBOS}, {keyAddEOS, addEOS, &v.AddEOS}, {keySpacePrefix, prefix, &v.AddSpacePrefix}} {
		if *b.to, err = m.BoolOr(b.key, b.def); err != nil {
			return v, err
		}
	}
	return v, readSpecials(m, &v, warn)
}

// readSpecials reads the ids of special tokens. One that no token has is an error where it is needed, else it counts as absent.
func readSpecials(m *gguf.Metadata, v *tokenizer.GGUFVocab, warn func(string)) error {
	special := specialKeys(v)
	for _, key := range slices.Sorted(maps.Keys(special)) {
		n, err := m.IntOr(key, -1)
		if err != nil {
			return err
		}
		if n == math.MaxUint32 { // −1, stored without a sign
			n = -1
		}
		if n < -1 || n >= len(v.Tokens) {
			to := special[key]
			if to == &v.EOS || to == &v.BOS && v.AddBOS {
				return fmt.Errorf("metadata key %q is %d, but there are %d tokens", key, n, len(v.Tokens))
			}
			warn(fmt.Sprintf("metadata key %q is %d, but there are %d tokens: it is ignored", key, n, len(v.Tokens)))
			n = -1
		}
		*special[key] = int32(n)
	}
	return nil
}

// endKeys are the keys of further tokens that end a generation: single ids, or lists.
var endKeys = []string{"tokenizer.ggml.eos_token_ids", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
	"tokenizer.ggml.eom_token_id",
	"tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id"}

// ggufEnds returns the ids of tokens that end a generation, wherever GGUF metadata has them.
func ggufEnds(m *gguf.Metadata) (ends []int32) {
	for _, key := range endKeys {
		if list, err := m.Int32s(key); err == nil {
			ends = append(ends, list...)
		} else if n, err := m.Int(key); err == nil && n >= 0 && n <= math.MaxInt32 {
			ends = append(ends, int32(n))
		}
	}
	return ends
}

// absent clears the error for a key that is not there, and reports whether another error remains.
func absent(err *error) (failed bool) {
	if errors.Is(*err, gguf.ErrMissing) {
		*err = nil
	}
	return *err != nil
}

// SetVocabulary writes a vocabulary into GGUF metadata: the inverse of readVocab.
func SetVocabulary(m *gguf.Metadata, v tokenizer.GGUFVocab) {
	m.Set(keyTokenizer, v.Model)
	if v.Pre != "" {
		m.Set(keyPre, v.Pre)
	}
	m.Set(keyTokens, v.Tokens)
	if len(v.Scores) > 0 {
		m.Set(keyScores, v.Scores)
	}
	if len(v.Types) > 0 {
		m.Set(keyTypes, v.Types)
	}
	if len(v.Merges) > 0 {
		m.Set(keyMerges, v.Merges)
	}
	special := specialKeys(&v)
	for _, key := range slices.Sorted(maps.Keys(special)) {
		if id := *special[key]; id >= 0 {
			m.Set(key, uint32(id))
		}
	}
	m.Set(keyAddBOS, v.AddBOS)
	m.Set(keyAddEOS, v.AddEOS)
	m.Set(keySpacePrefix, v.AddSpacePrefix)
}
