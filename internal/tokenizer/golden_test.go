package tokenizer

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// goldenFile is written by testdata/make_goldens.py.
type goldenFile struct {
	Texts []string
	Cases []struct {
		Name, Tokenizer string
		Patch           map[string]json.RawMessage
		IDs             [][]int32
	}
}

func readGoldens(t testing.TB) (g goldenFile) {
	b, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &g))
	require.NotEmpty(t, g.Cases)
	return g
}

// tokenizerJSON returns testdata/name.json with some nodes replaced; of "model", only the given fields.
func tokenizerJSON(t testing.TB, name string, patch map[string]json.RawMessage) []byte {
	b, err := os.ReadFile("testdata/" + name + ".json")
	require.NoError(t, err)
	var doc map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(b, &doc))
	for k, v := range patch {
		if k != "model" {
			doc[k] = v
			continue
		}
		var model, fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(doc[k], &model))
		require.NoError(t, json.Unmarshal(v, &fields))
		for f, fv := range fields {
			model[f] = fv
		}
		doc[k], err = json.Marshal(model)
		require.NoError(t, err)
	}
	b, err = json.Marshal(doc)
	require.NoError(t, err)
	return b
}

func load(t testing.TB, name string, patch map[string]json.RawMessage) *Tokenizer {
	if strings.HasSuffix(name, ".model") {
		b, err := os.ReadFile("testdata/" + name)
		require.NoError(t, err)
		tk, err := FromSentencePiece(b, nil)
		require.NoError(t, err)
		return tk
	}
	tk, err := FromHF(tokenizerJSON(t, name, patch), nil)
	require.NoError(t, err)
	return tk
}

// TestGoldens compares with the reference implementation: directly, after storing, and by way of GGUF's terms
// where these can express the tokenizer.
func TestGoldens(t *testing.T) {
	g := readGoldens(t)
	viaGGUF := 0
	for _, c := range g.Cases {
		t.Run(c.Name, func(t *testing.T) {
			tk := load(t, c.Tokenizer, c.Patch)
			special := c.Tokenizer != "bpe.model" // in texts, the sentencepiece library knows none
			compare := func(tk *Tokenizer, how string) {
				for i, text := range g.Texts {
					require.Equal(t, c.IDs[i], append([]int32{}, tk.Encode(text, false, special)...), "%s: %q", how, text)
				}
			}
			compare(tk, "tokenizer.json")

			b, err := Marshal(tk)
			require.NoError(t, err)
			stored, err := Unmarshal(b)
			require.NoError(t, err)
			require.Equal(t, tk.spec, stored.spec)
			compare(stored, "stored")

			v, err := tk.GGUFVocab()
			exact := len(tk.steps) == 0 && tk.prefix <= prefixFragment && !tk.fuseUnknown
			if err != nil || !exact {
				return
			}
			fromGGUF, err := FromGGUF(v)
			require.NoError(t, err)
			again, err := fromGGUF.GGUFVocab()
			require.NoError(t, err)
			require.Equal(t, v, again)
			for i, text := range g.Texts {
				if strings.Contains(text, "left") || strings.Contains(text, "right") || strings.Contains(text, "single") {
					continue // GGUF has no flags for white space and words
				}
				require.Equal(t, c.IDs[i], append([]int32{}, fromGGUF.Encode(text, false, special)...), "GGUF: %q", text)
			}
			viaGGUF++
		})
	}
	require.GreaterOrEqual(t, len(g.Texts), 200)
	require.GreaterOrEqual(t, viaGGUF, 8)
}

func TestDecodeReversesEncode(t *testing.T) {
	g := readGoldens(t)
	for _, c := range g.Cases {
		tk := load(t, c.Tokenizer, c.Patch)
		if len(tk.steps) > 0 || strings.HasPrefix(c.Name, "unknown") {
			continue // these lose information
		}
		for _, text := range g.Texts {
			switch {
			case strings.Contains(text, "<left>") || strings.Contains(text, "<right>") || strings.Contains(text, "▁"):
				continue // white space is stripped, ▁ becomes a space
			case tk.prefix > prefixFragment && strings.HasPrefix(text, " "), tk.prefix == prefixFragment &&
				(strings.Contains(text, "tool>") || strings.Contains(text, "<single>")), tk.prefix == prefixUnlessSpace &&
				strings.Contains(text, ">"):
				continue // which spaces the tokenizer added is not recorded
			}
			require.Equal(t, text, tk.Decode(tk.Encode(text, false, false)), "%s: %q", c.Name, text)
		}
	}
}

func TestSpecialTokens(t *testing.T) {
	tk := load(t, "bytelevel", nil)
	start, ok := tk.Special("<|im_start|>")
	require.True(t, ok)
	end, _ := tk.Special("<|im_end|>")
	tool, _ := tk.Special("<tool>")
	_, ok = tk.Special("<|im_")
	require.False(t, ok)

	require.Equal(t, []int32{start, end, tool}, tk.Encode("<|im_start|><|im_end|><tool>", false, true))
	plain := tk.Encode("<|im_start|><tool>", false, false)
	require.NotContains(t, plain, start, "control tokens are text unless they are to be parsed")
	require.Contains(t, plain, tool, "user-defined tokens always count")
	require.Equal(t, "<|im_start|><tool>", tk.Decode(plain))
	require.Equal(t, "x<tool>", tk.Decode(append(tk.Encode("x", false, true), start, tool, end, -5, 1<<30)),
		"control tokens and unknown ids are not text")
	require.Equal(t, "<|im_end|>", tk.Piece(end))
	require.Empty(t, tk.Piece(-1))

	require.True(t, tk.IsEOG(end))
	require.Equal(t, end, tk.EOT())
	eot, _ := tk.Special("<|endoftext|>")
	require.True(t, tk.IsEOG(eot))
	require.False(t, tk.IsEOG(start))
	require.False(t, tk.IsEOG(-1))
	require.EqualValues(t, -1, tk.BOS())
}

func TestAddSpecial(t *testing.T) {
	config := []byte(`{"bos_token":"<|im_start|>","eos_token":{"content":"<|im_end|>"},"add_bos_token":true}`)
	tk, err := FromHF(tokenizerJSON(t, "bytelevel", nil), config)
	require.NoError(t, err)
	require.True(t, tk.AddBOS())
	require.False(t, tk.AddEOS())
	require.Equal(t, append([]int32{tk.BOS()}, tk.Encode("hi", false, false)...), tk.Encode("hi", true, false))
	require.Equal(t, []int32{tk.BOS()}, tk.Encode("", true, false))
	require.True(t, tk.IsEOG(tk.EOS()))

	spm := load(t, "spm", nil) // its post-processor adds <s>
	require.True(t, spm.AddBOS())
	require.Equal(t, "<s>", spm.Piece(spm.BOS()))
	require.Equal(t, spm.BOS(), spm.Encode("hi", true, false)[0])
	require.Equal(t, "hi", spm.Decode(spm.Encode("hi", true, false)))

	post := json.RawMessage(`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"A"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"B"}}],
		"special_tokens":{"A":{"tokens":["<|im_start|>"]},"B":{"tokens":["<|im_end|>"]}}}`)
	both := load(t, "bytelevel", map[string]json.RawMessage{"post_processor": post})
	ids := both.Encode("x", true, false)
	require.Equal(t, "<|im_start|>", both.Piece(ids[0]))
	require.Equal(t, "<|im_end|>", both.Piece(ids[len(ids)-1]))
}

func TestStream(t *testing.T) {
	for _, name := range []string{"bytelevel", "spm"} {
		tk := load(t, name, nil)
		for _, text := range readGoldens(t).Texts {
			ids := tk.Encode(text, false, false)
			var out strings.Builder
			s := tk.NewStream()
			for _, id := range ids {
				part := s.Push(id)
				if !strings.Contains(text, "\uFFFD") {
					require.NotContains(t, part, "\uFFFD", "%q", text)
				}
				out.WriteString(part)
			}
			require.Empty(t, s.Flush())
			got := out.String()
			if name == "spm" {
				got = strings.TrimPrefix(got, " ")
			}
			require.Equal(t, tk.Decode(ids), got)
		}
	}
	tk := load(t, "bytelevel", nil)
	smile := tk.Encode("\xf0\x9f\x98\x80", false, false)
	s := tk.NewStream()
	text := ""
	for i, id := range smile {
		part := s.Push(id)
		if i < len(smile)-1 {
			require.Empty(t, part, "no part of a character")
		}
		text += part
	}
	require.Equal(t, "😀", text)

	start, _ := tk.Special("<|im_start|>")
	require.Empty(t, tk.NewStream().Push(start))
	require.Equal(t, "<|im_start|>", tk.NewStream("<|im_start|>", "<nowhere>").Push(start))

	require.Empty(t, s.Push(tk.bytes[0xE3]))
	require.Equal(t, "\uFFFD", s.Flush())
	require.Equal(t, "\uFFFDa", s.Push(tk.bytes[0xFF])+s.Push(tk.bytes['a']))
	require.Empty(t, s.Push(tk.bytes[0xC3]))
	require.Equal(t, "\uFFFDb", s.Push(tk.bytes['b']))
}
