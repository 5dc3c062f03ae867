package tokenizer

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// whole encodes a word without looking it up or cutting it into blocks, and one pair at a time.
func whole(t *Tokenizer, w string) []int32 {
	m := newMerger(len(w))
	if t.kind == byteLevel {
		for i := range len(w) {
			m.block = append(m.block, t.bytes[w[i]])
		}
	} else {
		for _, r := range w {
			m.block = append(m.block, t.runes[r])
		}
	}
	if len(m.block) > 0 {
		m.findPairs(&t.pairs)
		m.mergeHeap(&t.pairs)
	}
	return m.block
}

// chainVocab is a vocabulary whose merges depend on symbols far to the right: c₀c₁ merges last, cₙ₋₁cₙ first.
func chainVocab(t testing.TB) *Tokenizer {
	v := smallVocab(nil)
	letters := []rune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
	for i, r := range letters {
		v.Tokens, v.Scores, v.Types = append(v.Tokens, string(r)), append(v.Scores, -1000), append(v.Types, typeNormal)
		if i > 0 {
			v.Tokens = append(v.Tokens, string(letters[i-1:i+1]))
			v.Scores, v.Types = append(v.Scores, float32(i)), append(v.Types, typeNormal)
		}
	}
	tk, err := FromGGUF(v)
	require.NoError(t, err)
	return tk
}

func TestBlocksGiveTheTokensOfTheWholeWord(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tokenizers := tokenizersUnderTest(t)
	chain := chainVocab(t)
	for name, tk := range tokenizers {
		if tk.kind == unigram || tk.ignoreMerges {
			continue
		}
		for range 30 {
			alphabet := []rune([]string{"ab", "theandois", " .", "日本語", "e\u0301", "\n ", "aAbB12 the"}[r.IntN(7)])
			var b strings.Builder
			for range 1 + r.IntN(3000) {
				c := alphabet[r.IntN(len(alphabet))]
				if _, ok := tk.runes[c]; ok || tk.kind == byteLevel {
					b.WriteRune(c)
				}
			}
			if b.Len() == 0 {
				continue
			}
			e := newEncoder(tk, b.Len())
			e.uncached(b.String())
			require.Equal(t, whole(tk, b.String()), e.out, "%s: %q", name, b.String())
		}
	}
	letters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for range 200 {
		text := ""
		for len(text) < 300 {
			from := r.IntN(len(letters))
			text += letters[from : from+1+r.IntN(len(letters)-from)]
		}
		e := newEncoder(chain, len(text))
		e.uncached(text)
		require.Equal(t, whole(chain, text), e.out, text)
	}
}

// TestUnigramEqualsAllSplits compares with the best of all ways to split short words.
func TestUnigramEqualsAllSplits(t *testing.T) {
	tk := load(t, "unigram", nil)
	ids := map[string]int32{}
	for id, text := range tk.tokens {
		if tk.attrs[id]&typeMask == typeNormal {
			ids[text] = int32(id)
		}
	}
	var best func(w string) float64
	best = func(w string) float64 {
		if w == "" {
			return 0
		}
		top := -1e30
		for n := range w + "x" {
			if id, ok := ids[w[:n]]; ok && n > 0 {
				top = max(top, tk.weights[id]+best(w[n:]))
			}
		}
		return top
	}
	for _, w := range []string{"▁the", "▁international", "▁localiz", "aaaaaaaa", "▁in▁of", "thethe"} {
		sum := 0.0
		e := newEncoder(tk, len(w))
		e.uncached(w)
		text := ""
		for _, id := range e.out {
			sum += tk.weights[id]
			text += tk.tokens[id]
		}
		require.Equal(t, w, text)
		require.InDelta(t, best(w), sum, 1e-9, w)
	}
}

func TestGGUFWithoutMergesIsRefused(t *testing.T) {
	v, err := load(t, "bytelevel", nil).GGUFVocab()
	require.NoError(t, err)
	v.Merges = nil
	_, err = FromGGUF(v)
	require.ErrorContains(t, err, "tokenizer.ggml.merges is missing")
	v.Tokens, v.Types, v.Scores = v.Tokens[:256], v.Types[:256], nil
	for i := range v.Tokens {
		v.Tokens[i] = string(byteAlphabet()[i])
		v.Types[i] = typeNormal
	}
	v.BOS, v.EOS, v.UNK, v.PAD, v.EOT = -1, -1, -1, -1, -1
	_, err = FromGGUF(v)
	require.NoError(t, err, "a vocabulary of single bytes needs none")
}

func TestGiantTokensAreRefusedAtOnce(t *testing.T) {
	v := smallVocab(map[string]float32{strings.Repeat("ab", 500_000): 1})
	_, err := FromGGUF(v)
	require.ErrorContains(t, err, "1000000 bytes long")
	v = smallVocab(nil)
	v.Tokens, v.Scores, v.Types = append(v.Tokens, strings.Repeat("<", 5000)), append(v.Scores, 0), append(v.Types, typeUser)
	_, err = FromGGUF(v)
	require.ErrorContains(t, err, "5000 bytes long")
}

// TestGemma4FromGGUF: merges over characters, ▁ for spaces, line ends apart and looked up whole.
func TestGemma4FromGGUF(t *testing.T) {
	v := smallVocab(nil)
	v.Model, v.Scores, v.AddSpacePrefix = "gemma4", nil, false
	for _, text := range []string{"▁", "t", "h", "e", "th", "the", "▁the", "\n", "\n\n"} {
		v.Tokens, v.Types = append(v.Tokens, text), append(v.Types, typeNormal)
	}
	v.Merges = []string{"t h", "th e", "▁ the"}
	tk, err := FromGGUF(v)
	require.NoError(t, err)
	var texts []string
	ids := tk.Encode("the the\n\nthé\n", false, false)
	for _, id := range ids {
		texts = append(texts, tk.tokens[id])
	}
	require.Equal(t, []string{"the", "▁the", "\n\n", "th", "<0xC3>", "<0xA9>", "\n"}, texts)
	require.Equal(t, "the the\n\nthé\n", tk.Decode(ids))
	again, err := tk.GGUFVocab()
	require.NoError(t, err)
	require.Equal(t, v.Merges, again.Merges)
	require.Equal(t, "gemma4", again.Model)
}

func TestSentencePieceErrors(t *testing.T) {
	b, err := os.ReadFile("testdata/unigram.model")
	require.NoError(t, err)
	for n := range b[:min(len(b), 3000)] {
		if tk, err := FromSentencePiece(b[:n], nil); err == nil { // a shorter list of pieces
			require.NotEmpty(t, tk.Encode("x", false, false))
		}
	}
	_, err = FromSentencePiece([]byte("hello"), nil)
	require.ErrorContains(t, err, "expected a SentencePiece model")
	_, err = FromSentencePiece(nil, nil)
	require.ErrorContains(t, err, "empty")
	_, err = FromSentencePiece([]byte{0x12, 2, 0x18, 3}, nil) // model_type WORD
	require.ErrorContains(t, err, "supported are 1 (Unigram) and 2 (BPE)")
}

func FuzzEncode(f *testing.F) {
	for _, text := range readGoldens(f).Texts {
		f.Add(text)
	}
	tokenizers := map[string]*Tokenizer{}
	for name, tk := range tokenizersUnderTest(f) {
		switch name {
		case "qwen2", "o200k", "llama2", "bpe.model", "unigram.model", "unigram, NFKC, lower case":
			tokenizers[name] = tk
		}
	}
	require.Len(f, tokenizers, 6)
	f.Fuzz(func(t *testing.T, text string) {
		for name, tk := range tokenizers {
			ids := tk.Encode(text, true, false)
			for _, id := range ids {
				require.True(t, id >= 0 && int(id) < tk.NVocab(), name)
			}
			if tk.kind == byteLevel && tk.prefix == prefixNone && len(tk.steps) == 0 && !strings.ContainsAny(text, "<") {
				require.Equal(t, text, tk.Decode(ids), name)
			}
			stream := tk.NewStream()
			var out strings.Builder
			for _, id := range ids {
				out.WriteString(stream.Push(id))
			}
			out.WriteString(stream.Flush())
			require.True(t, len(strings.ToValidUTF8(out.String(), "")) == out.Len(), name)
		}
	})
}

// FuzzFiles reads damaged tokenizer.json and tokenizer.model files.
func FuzzFiles(f *testing.F) {
	for _, name := range []string{"bytelevel.json", "spm.json", "unigram.json", "bpe.model", "unigram.model"} {
		b, err := os.ReadFile("testdata/" + name)
		require.NoError(f, err)
		f.Add(b, strings.HasSuffix(name, ".model"))
	}
	small := `{"model":{"type":%q,"vocab":%s,"merges":%s,"unk_id":0},"pre_tokenizer":{"type":"Metaspace","replacement":"▁"},` +
		`"normalizer":null}`
	f.Add([]byte(fmt.Sprintf(small, "Unigram", `[["<unk>",0],["▁",-1],["a",-2.5]]`, "[]")), false)
	f.Add([]byte(fmt.Sprintf(small, "BPE", `{"▁":0,"a":1,"▁a":2}`, `["▁ a"]`)), false)
	f.Fuzz(func(t *testing.T, b []byte, model bool) {
		read := FromHF
		if model {
			read = FromSentencePiece
		}
		tk, err := read(b, nil)
		if err != nil {
			return
		}
		ids := tk.Encode("Hello <tool> wörld 123\n ▁a", true, true)
		stored, err := Marshal(tk)
		require.NoError(t, err)
		again, err := Unmarshal(stored)
		require.NoError(t, err)
		require.Equal(t, ids, again.Encode("Hello <tool> wörld 123\n ▁a", true, true))
		tk.Decode(ids)
	})
}

func TestReplaceCannotBlowUpTheText(t *testing.T) {
	patch := map[string]json.RawMessage{"normalizer": json.RawMessage(
		fmt.Sprintf(`{"type":"Replace","pattern":{"String":"a"},"content":%q}`, strings.Repeat("b", 1000)))}
	_, err := FromHF(tokenizerJSON(t, "unigram", patch), nil)
	require.ErrorContains(t, err, "more than 4 times")
}
