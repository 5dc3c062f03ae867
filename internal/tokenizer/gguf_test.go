package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallVocab is a "llama" vocabulary: UNK, BOS, EOS, 256 bytes, then pieces with scores.
func smallVocab(scores map[string]float32) GGUFVocab {
	v := GGUFVocab{Model: "llama", BOS: 1, EOS: 2, UNK: 0, PAD: -1, EOT: -1, AddBOS: true, AddSpacePrefix: true}
	add := func(text string, score float32, typ int32) {
		v.Tokens, v.Scores, v.Types = append(v.Tokens, text), append(v.Scores, score), append(v.Types, typ)
	}
	add("<unk>", 0, typeUnknown)
	add("<s>", 0, typeControl)
	add("</s>", 0, typeControl)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), 0, typeByte)
	}
	for text, score := range scores {
		add(text, score, typeNormal)
	}
	return v
}

// naiveSPM merges as SentencePiece defines it: always the pair whose concatenation scores best, leftmost first.
func naiveSPM(v *GGUFVocab, text string) (ids []int32) {
	index := map[string]int32{}
	for id, t := range v.Tokens {
		if v.Types[id] == typeNormal {
			index[t] = int32(id)
		}
	}
	symbols := strings.Split(strings.ReplaceAll(" "+text, " ", spaceMark), "")
	for {
		best, at := float32(-1e30), -1
		for i := 0; i+1 < len(symbols); i++ {
			if id, ok := index[symbols[i]+symbols[i+1]]; ok && v.Scores[id] > best {
				best, at = v.Scores[id], i
			}
		}
		if at < 0 {
			break
		}
		symbols[at] += symbols[at+1]
		symbols = append(symbols[:at+1], symbols[at+2:]...)
	}
	for _, s := range symbols {
		if id, ok := index[s]; ok {
			ids = append(ids, id)
			continue
		}
		for i := range len(s) {
			ids = append(ids, 3+int32(s[i]))
		}
	}
	return ids
}

func TestScoredMerges(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	alphabet := []string{"a", "b", "c", "é", "▁", "日"}
	for range 60 {
		scores := map[string]float32{}
		pieces := append([]string(nil), alphabet...)
		for _, a := range alphabet {
			scores[a] = -100
		}
		for range 40 {
			p := pieces[r.IntN(len(pieces))] + pieces[r.IntN(len(pieces))]
			if _, dup := scores[p]; !dup {
				scores[p] = -float32(r.IntN(12)) // many equal scores
				pieces = append(pieces, p)
			}
		}
		v := smallVocab(scores)
		tk, err := FromGGUF(v)
		require.NoError(t, err)
		b, err := Marshal(tk)
		require.NoError(t, err)
		stored, err := Unmarshal(b)
		require.NoError(t, err)
		for range 30 {
			var text strings.Builder
			for range 1 + r.IntN(25) {
				text.WriteString([]string{"a", "b", "c", "é", " ", "日", "x", "😀"}[r.IntN(8)])
			}
			require.Equal(t, naiveSPM(&v, text.String()), tk.Encode(text.String(), false, false), "%q", text.String())
			require.Equal(t, naiveSPM(&v, text.String()), stored.Encode(text.String(), false, false), "%q", text.String())
			require.Equal(t, text.String(), tk.Decode(tk.Encode(text.String(), true, false)))
		}
		back, err := stored.GGUFVocab()
		require.NoError(t, err)
		require.Equal(t, v.Tokens, back.Tokens)
		require.Equal(t, v.Scores, back.Scores)
		require.True(t, back.AddBOS && back.AddSpacePrefix && !back.AddEOS)
	}
}

func TestGGUFErrors(t *testing.T) {
	good := func() GGUFVocab {
		return GGUFVocab{Model: "gpt2", Pre: "gpt-2", Tokens: []string{"a", "b", "ab"}, Merges: []string{"a b"}, BOS: -1, EOS: -1,
			UNK: -1, PAD: -1, EOT: -1}
	}
	_, err := FromGGUF(good())
	require.NoError(t, err)
	for want, change := range map[string]func(*GGUFVocab){
		"tokenizer.ggml.model is \"bert\"":   func(v *GGUFVocab) { v.Model = "bert" },
		"tokenizer.ggml.pre is \"nonsense\"": func(v *GGUFVocab) { v.Pre = "nonsense" },
		"vocabulary is empty":                func(v *GGUFVocab) { v.Tokens, v.Merges = nil, nil },
		"token_type has 1 entries":           func(v *GGUFVocab) { v.Types = []int32{1} },
		"token_type[2] is 9":                 func(v *GGUFVocab) { v.Types = []int32{1, 1, 9} },
		"merge 0 joins \"a\" and \"c\"":      func(v *GGUFVocab) { v.Merges = []string{"a c"} },
		"not of the form":                    func(v *GGUFVocab) { v.Merges = []string{"ab"} },
		"occurs twice":                       func(v *GGUFVocab) { v.Merges = []string{"a b", "a b"} },
		"BOS is token 3":                     func(v *GGUFVocab) { v.BOS = 3 },
		"EOS is token -2":                    func(v *GGUFVocab) { v.EOS = -2 },
		"vocabulary names none":              func(v *GGUFVocab) { v.AddBOS = true },
		"scores has 0 entries":               func(v *GGUFVocab) { v.Model = "llama" },
		"byte 0x00 has no token":             func(v *GGUFVocab) { v.Model, v.Scores = "llama", make([]float32, 3) },
	} {
		v := good()
		change(&v)
		_, err := FromGGUF(v)
		require.ErrorContains(t, err, want)
	}
}

func TestGGUFDefaults(t *testing.T) {
	bos, eos, space := GGUFDefaults("llama", "default")
	require.Equal(t, [3]bool{true, false, true}, [3]bool{bos, eos, space})
	bos, _, space = GGUFDefaults("gpt2", "llama-bpe")
	require.True(t, bos && !space)
	bos, _, _ = GGUFDefaults("gpt2", "qwen2")
	require.False(t, bos)
}

// TestDefaultPreTokenizer: the splitting of files that name none, from its definition.
func TestDefaultPreTokenizer(t *testing.T) {
	tk := load(t, "bytelevel", nil)
	v, err := tk.GGUFVocab()
	require.NoError(t, err)
	v.Pre = ""
	d, err := FromGGUF(v)
	require.NoError(t, err)
	var words []string
	splitWords("a (b)  12345+6 c", d.splitters, func(w string) { words = append(words, w) })
	require.Equal(t, []string{"a", " ", "(", "b", ")", " ", " ", "123", "45", "+", "6", " c"}, words)
}

func TestHFErrors(t *testing.T) {
	for want, patch := range map[string]string{
		`model type is "WordPiece", supported are BPE`: `{"model":{"type":"WordPiece"}}`,
		`of Unigram is not a list of pairs`:            `{"model":{"type":"Unigram"}}`,
		`of BPE is not an object`:                      `{"model":{"vocab":[["a",0]]}}`,
		`end_of_word_suffix "</w>"`:                    `{"model":{"end_of_word_suffix":"</w>"}}`,
		`unknown pattern "\\w+"`: `{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\w+"},` +
			`"behavior":"Isolated"}}`,
		`node type "BertPreTokenizer" is not supported`: `{"pre_tokenizer":{"type":"BertPreTokenizer"}}`,
		`behavior "Removed"`: `{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{N}"},` +
			`"behavior":"Removed"}}`,
		`node type "BertNormalizer"`:                    `{"normalizer":{"type":"BertNormalizer"}}`,
		`neither byte-level`:                            `{"pre_tokenizer":{"type":"Digits","individual_digits":true}}`,
		`decoder: WordPiece`:                            `{"decoder":{"type":"WordPiece"}}`,
		`post_processor: node type "RobertaProcessing"`: `{"post_processor":{"type":"RobertaProcessing"}}`,
		`at most one token each`: `{"post_processor":{"type":"TemplateProcessing",` +
			`"single":[{"SpecialToken":{"id":"X"}},{"Sequence":{"id":"A"}}],"special_tokens":{"X":{"tokens":["a","b"]}}}}`,
		`adds "nowhere"`: `{"post_processor":{"type":"TemplateProcessing",` +
			`"single":[{"SpecialToken":{"id":"X"}}],"special_tokens":{"X":{"tokens":["nowhere"]}}}}`,
		`is not of the form`:                           `{"model":{"merges":["ab"]}}`,
		`has 3 parts`:                                  `{"model":{"merges":[["a","b","c"]]}}`,
		`must be tokens`:                               `{"model":{"merges":[["a","nowhere"]]}}`,
		`token id 100000000`:                           `{"model":{"vocab":{"a":100000000}}}`,
		`is negative or used twice`:                    `{"model":{"vocab":{"a":0,"b":0}}}`,
		`used by another token`:                        `{"added_tokens":[{"id":5,"content":"other"}]}`,
		`unk_token "nowhere" is not in the vocabulary`: `{"model":{"unk_token":"nowhere"}}`,
		`json: cannot unmarshal`:                       `{"added_tokens":7}`,
	} {
		_, err := FromHF(tokenizerJSON(t, "bytelevel", parsePatch(t, patch)), nil)
		require.ErrorContains(t, err, want)
	}
	_, err := FromHF([]byte("{"), nil)
	require.ErrorContains(t, err, "tokenizer.json")
	_, err = FromHF(tokenizerJSON(t, "bytelevel", nil), []byte("["))
	require.ErrorContains(t, err, "tokenizer_config.json")
}

// TestMergeForms: merges as strings and as pairs are the same.
func TestMergeForms(t *testing.T) {
	pairs := load(t, "bytelevel", nil)
	v, err := pairs.GGUFVocab()
	require.NoError(t, err)
	patch := `{"model":{"merges":[` + quoteAll(v.Merges) + `]}}`
	require.Equal(t, pairs.merges, load(t, "bytelevel", parsePatch(t, patch)).merges)
}
