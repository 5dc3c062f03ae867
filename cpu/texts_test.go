package cpu

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// Texts that are continued together get the very logits that each gets alone, beyond a block of the cache and with either type of it.
func TestForwardTexts(t *testing.T) {
	const texts, length, vocab = 5, 70, 97
	for _, kv := range []string{engine.KVF16, engine.KVQ8} {
		m := newTiny(t, tinyOptions{arch: "qwen2", recipe: 3})
		tokens := prompt(texts*length, vocab)
		for _, mc := range machines() {
			alone := load(t, m, mc, engine.LoadOptions{NCtx: length, KVType: kv, Threads: 2})
			b := load(t, m, mc, engine.LoadOptions{NCtx: length, KVType: kv, Threads: 2, Texts: texts})
			require.Equal(t, texts*alone.Memory().KV, b.Memory().KV)
			want := make([][]float32, texts)
			for i := range want {
				want[i] = forward(t, alone, tokens[i*length:(i+1)*length], length)
			}
			step := make([]int32, texts)
			for pos := range length {
				for i := range step {
					step[i] = tokens[i*length+pos]
				}
				got, err := b.ForwardTexts(context.Background(), step, pos)
				require.NoError(t, err)
				for i := range want {
					require.Equal(t, want[i][pos*vocab:(pos+1)*vocab], got[i*vocab:(i+1)*vocab], "%s, text %d, position %d", mc.dot, i, pos)
				}
			}
			// The first text goes on as if it were the only one, and the others' caches are left alone.
			last, err := b.Forward(context.Background(), tokens[:length], 0, 1)
			require.NoError(t, err)
			require.Equal(t, want[0][(length-1)*vocab:], last)
			got, err := b.ForwardTexts(context.Background(), step[:2], length-1)
			require.NoError(t, err)
			require.Equal(t, want[1][(length-1)*vocab:], got[vocab:])
		}
	}
}

func TestForwardTextsRefusesWrongArguments(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama"})
	_, err := New().(*Backend).ForwardTexts(context.Background(), []int32{1}, 0)
	require.Error(t, err)
	b := load(t, m, machines()[0], engine.LoadOptions{NCtx: 10, Texts: 3})
	for _, c := range []struct {
		tokens []int32
		pos    int
		msg    string
	}{
		{nil, 0, "0 texts"},
		{make([]int32, 4), 0, "room for 10 tokens of 3"},
		{make([]int32, 3), 10, "position 10"},
		{make([]int32, 3), -1, "position -1"},
		{[]int32{97}, 0, "vocabulary has 97"},
	} {
		_, err := b.ForwardTexts(context.Background(), c.tokens, c.pos)
		require.ErrorContains(t, err, c.msg)
	}
	for _, texts := range []int{-1, maxContext} {
		require.ErrorContains(t, New().Load(context.Background(), m.file, m.prog, engine.LoadOptions{NCtx: 10, Texts: texts}), "texts of 10 tokens")
	}
}
