package session

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
)

func example(t *testing.T) (path string, c *Conversation, pages [][]byte) {
	c = &Conversation{Model: "f00", Tokens: []int32{5, 7, 1 << 30, 0}, Messages: []chat.Message{{Role: "system", Content: "Be ü."},
		{Role: "user", Content: "Hi\n"}, {Role: "assistant", Content: "Ho", Reasoning: "hm"}}}
	pages = [][]byte{bytes.Repeat([]byte{1}, 100), bytes.Repeat([]byte{2}, 100)}
	path = filepath.Join(t.TempDir(), "s")
	require.NoError(t, save(path, c, pages))
	return path, c, pages
}

func save(path string, c *Conversation, pages [][]byte) error {
	cache := &Cache{Layout: "test", PageBytes: 100, Covered: 3, Pages: 2}
	return Save(path, c, cache, func(write func([]byte) error) error {
		for _, p := range pages {
			if err := write(p); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestWhatIsSavedIsRead(t *testing.T) {
	path, c, pages := example(t)
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, *c, f.Conversation)
	require.Equal(t, Cache{Layout: "test", PageBytes: 100, Covered: 3, Pages: 2}, f.Cache)
	b := make([]byte, 100)
	for _, p := range pages {
		require.NoError(t, f.NextPage(b))
		require.Equal(t, p, b)
	}
	require.Error(t, f.NextPage(b))
	require.NoError(t, Save(path, &Conversation{Raw: true}, nil, nil))
	g, err := Open(path)
	require.NoError(t, err)
	defer g.Close()
	require.True(t, g.Raw)
	require.Zero(t, g.Pages)
}

func TestFailedSavesLeaveTheOldFile(t *testing.T) {
	path, c, pages := example(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Error(t, save(path, c, pages[:1]))
	require.Error(t, save(path, c, append(pages, pages[0])))
	require.Error(t, save(path, c, [][]byte{pages[0], pages[1][1:]}))
	require.ErrorIs(t, Save(path, c, &Cache{Pages: 1}, func(func([]byte) error) error { return os.ErrClosed }), os.ErrClosed)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing unfinished stays")
}

func TestDamagedFilesAreRefused(t *testing.T) {
	path, _, _ := example(t)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	try := func(b []byte) error {
		require.NoError(t, os.WriteFile(path, b, 0o600))
		f, err := Open(path)
		if err == nil {
			f.Close()
		}
		return err
	}
	for n := range good {
		require.Error(t, try(good[:n]), "cut at %d", n)
	}
	require.Error(t, try(append(bytes.Clone(good), 0)))
	r := rand.New(rand.NewPCG(1, 1))
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= byte(1 << r.IntN(8))
		err := try(b)
		require.Error(t, err, "offset %d", i)
		require.ErrorContains(t, err, path)
	}
	require.NoError(t, try(good))
}

func TestAbsurdHeadersAreRefused(t *testing.T) {
	for _, text := range []string{
		`{`, `[]`, `{"version":2}`, `{"version":1,"tokens":-1}`, `{"version":1,"tokens":2000000}`, `{"version":1,"pages":-1}`,
		`{"version":1,"pages":1,"page_bytes":99999999999}`, `{"version":1,"tokens":1,"covered":2}`,
		`{"version":1,"messages":[{"role":"tool"}]}`, `{"version":1,"tokens":1e9}`,
	} {
		_, err := decodeHeader([]byte(text))
		require.Error(t, err, text)
		require.False(t, errors.Is(err, os.ErrNotExist))
	}
}
