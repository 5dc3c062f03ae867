package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func add(t *testing.T, s *Store, name, content string) Model {
	m, err := s.Add(context.Background(), Manifest{Name: name, Source: "hub"}, func(path string) error {
		return os.WriteFile(path, []byte(content), 0o666)
	})
	require.NoError(t, err)
	return m
}

func read(t *testing.T, m Model) string {
	b, err := os.ReadFile(m.Path)
	require.NoError(t, err)
	return string(b)
}

func TestModelsAreFoundByWhateverNamesOne(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "home"))
	empty, err := s.List()
	require.NoError(t, err)
	assert.Empty(t, empty)
	add(t, s, "Qwen/Qwen3-0.6B:Q4_K_M", "a")
	add(t, s, "Qwen/Qwen3-0.6B:Q8_0", "b")
	add(t, s, "org/smol:F16", "c")
	add(t, s, "mine:v1", "d")
	for name, want := range map[string]string{
		"Qwen/Qwen3-0.6B:Q8_0": "b", "qwen3-0.6b:q4_k_m": "a", "smol": "c", "org/smol": "c", "mine": "d", "mine:v1": "d",
	} {
		m, err := s.Find(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, read(t, m), name)
	}
	_, err = s.Find("Qwen3-0.6B")
	assert.ErrorContains(t, err, "Qwen/Qwen3-0.6B:Q4_K_M, Qwen/Qwen3-0.6B:Q8_0")
	_, err = s.Find("other")
	assert.ErrorIs(t, err, ErrNotFound)
	all, err := s.List()
	require.NoError(t, err)
	assert.Len(t, all, 4)
	assert.Equal(t, int64(1), all[0].Size)
}

func TestNamesDoNotLeadOutOfTheStore(t *testing.T) {
	s := Open(t.TempDir())
	for _, name := range []string{"../x:y", "a/../b:c", "/etc/passwd", "a:../b", "a:b/c", ".hidden:x", "a/.b:c", "a/b/c:d",
		"a\x00:b", "", "a:", "C:\\x", "a..b:c"} {
		assert.Error(t, CheckName(name), name)
		_, err := s.Add(context.Background(), Manifest{Name: name}, func(string) error { t.Fatal("built"); return nil })
		assert.Error(t, err, name)
		_, err = s.Find(name)
		assert.Error(t, err, name)
	}
	_, err := s.Add(context.Background(), Manifest{Name: "a"}, func(string) error { return nil })
	assert.ErrorContains(t, err, "has no tag")
}

func TestFailedBuildKeepsTheOldModel(t *testing.T) {
	s := Open(t.TempDir())
	add(t, s, "m:x", "old")
	_, err := s.Add(context.Background(), Manifest{Name: "m:x"}, func(path string) error {
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o666))
		return errors.New("disk full")
	})
	require.ErrorContains(t, err, "disk full")
	m, err := s.Find("m")
	require.NoError(t, err)
	assert.Equal(t, "old", read(t, m))
	left, err := os.ReadDir(filepath.Dir(m.Path))
	require.NoError(t, err)
	assert.Len(t, left, 2, "container and manifest")
	add(t, s, "m:x", "new")
	assert.Equal(t, "new", read(t, m))
}

func TestRemoveAndCopy(t *testing.T) {
	s := Open(t.TempDir())
	add(t, s, "org/m:x", "data")
	c, err := s.Copy(context.Background(), "m", "second")
	require.NoError(t, err)
	assert.Equal(t, "second:x", c.Name)
	_, err = s.Remove(context.Background(), "org/m")
	require.NoError(t, err)
	assert.Equal(t, "data", read(t, c), "the copy stays")
	_, err = s.Find("org/m")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.NoDirExists(t, filepath.Join(s.Dir(), "models", "org"))
	found, err := s.Find("second:x")
	require.NoError(t, err)
	assert.Equal(t, "hub", found.Source)
}

func TestOneBuilderAtATimeForAName(t *testing.T) {
	dir := t.TempDir()
	var inside, most atomic.Int32
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			_, err := Open(dir).Add(context.Background(), Manifest{Name: "m:x"}, func(path string) error {
				most.Store(max(most.Load(), inside.Add(1)))
				time.Sleep(20 * time.Millisecond)
				inside.Add(-1)
				return os.WriteFile(path, []byte("x"), 0o666)
			})
			assert.NoError(t, err)
		})
	}
	group.Wait()
	assert.Equal(t, int32(1), most.Load())
	unlock, err := Open(dir).Lock(context.Background(), "m:x")
	require.NoError(t, err)
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = Open(dir).Remove(ctx, "m:x")
	assert.ErrorContains(t, err, "another program")
}

func TestDamagedManifestIsToldBesideTheRest(t *testing.T) {
	s := Open(t.TempDir())
	add(t, s, "good:x", "1")
	bad := add(t, s, "bad:x", "2")
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(bad.Path), "x.json"), []byte("{"), 0o666))
	all, err := s.List()
	assert.ErrorContains(t, err, "not a manifest")
	assert.Len(t, all, 1)
	_, err = s.Find("good")
	assert.NoError(t, err)
	dir, err := Home(func(string) string { return "/x" })
	require.NoError(t, err)
	assert.Equal(t, "/x", dir)
}
