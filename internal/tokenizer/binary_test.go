package tokenizer

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func parsePatch(t testing.TB, s string) (patch map[string]json.RawMessage) {
	require.NoError(t, json.Unmarshal([]byte(s), &patch))
	return patch
}

func quoteAll(list []string) string {
	var quoted []string
	for _, s := range list {
		b, _ := json.Marshal(s)
		quoted = append(quoted, string(b))
	}
	return strings.Join(quoted, ",")
}

func TestUnmarshalErrors(t *testing.T) {
	b, err := Marshal(load(t, "bytelevel", nil))
	require.NoError(t, err)
	for n := range len(b) {
		_, err := Unmarshal(b[:n])
		require.Error(t, err, "the first %d bytes", n)
	}
	_, err = Unmarshal(append(b[:len(b):len(b)], 0))
	require.ErrorIs(t, err, ErrCorrupt)

	future := append([]byte(nil), b...)
	future[0] = 3
	_, err = Unmarshal(future)
	require.ErrorContains(t, err, "version 3")

	// A count of 2⁶⁰ tokens must not be believed.
	head := append([]byte(nil), b[:28]...)
	huge := binary.AppendUvarint(append(head, 0, 0, 0, 0), 1<<60)
	_, err = Unmarshal(huge)
	require.ErrorContains(t, err, "items of 2 bytes")
}

func FuzzUnmarshal(f *testing.F) {
	for _, name := range []string{"bytelevel", "spm", "unigram", "unigram.model"} {
		b, err := Marshal(load(f, name, nil))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tk, err := Unmarshal(b)
		if err != nil {
			return
		}
		ids := tk.Encode("Hello <tool> wörld 123\n", true, true)
		for _, id := range ids {
			require.Less(t, int(id), tk.NVocab())
			require.GreaterOrEqual(t, int(id), 0)
		}
		tk.Decode(ids)
		again, err := Marshal(tk)
		require.NoError(t, err)
		same, err := Unmarshal(again)
		require.NoError(t, err)
		// Not by value: scores may be NaN.
		require.Equal(t, tk.tokens, same.tokens)
		require.Equal(t, tk.merges, same.merges)
		require.Equal(t, ids, same.Encode("Hello <tool> wörld 123\n", true, true))
	})
}

func FuzzRoundTrip(f *testing.F) {
	bytes, spm := load(f, "bytelevel", nil), load(f, "spm", nil)
	for _, s := range readGoldens(f).Texts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "<left>") || strings.Contains(s, "<right>") {
			t.Skip("white space is stripped")
		}
		require.Equal(t, s, bytes.Decode(bytes.Encode(s, true, false)))
		stream, text := bytes.NewStream(), ""
		for _, id := range bytes.Encode(s, true, false) {
			part := stream.Push(id)
			require.True(t, utf8.ValidString(part))
			text += part
		}
		text += stream.Flush()
		if utf8.ValidString(s) {
			require.Equal(t, s, text)
			if !strings.Contains(s, "▁") && !strings.Contains(s, "tool>") && !strings.Contains(s, "<single>") {
				require.Equal(t, s, spm.Decode(spm.Encode(s, true, false)))
			}
		}
	})
}

// largeVocab has the size of a real one: 256 bytes and n merges of random earlier tokens.
func largeVocab(n int) GGUFVocab {
	r := rand.New(rand.NewPCG(5, 6))
	v := GGUFVocab{Model: "gpt2", Pre: "qwen2", BOS: -1, EOS: -1, UNK: -1, PAD: -1, EOT: -1}
	known := map[string]bool{}
	for _, c := range byteAlphabet() {
		v.Tokens = append(v.Tokens, string(c))
		known[string(c)] = true
	}
	for len(v.Merges) < n {
		a, b := v.Tokens[r.IntN(len(v.Tokens))], v.Tokens[r.IntN(256)]
		if len(a) < 12 && !known[a+b] {
			known[a+b] = true
			v.Tokens, v.Merges = append(v.Tokens, a+b), append(v.Merges, a+" "+b)
		}
	}
	return v
}

func BenchmarkUnmarshal150k(b *testing.B) {
	tk, err := FromGGUF(largeVocab(151000))
	require.NoError(b, err)
	data, err := Marshal(tk)
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Unmarshal(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat(strings.Join(readGoldens(b).Texts, "\n"), 20)
	for _, name := range []string{"bytelevel", "spm"} {
		b.Run(name, func(b *testing.B) {
			tk := load(b, name, nil)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tk.Encode(text, false, true)
			}
		})
	}
}
