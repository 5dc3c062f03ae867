package hub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/hub/hubtest"
)

const gguf = "model-Q4_K_M.gguf"

func content(n int) []byte {
	rng, b := rand.New(rand.NewPCG(1, 2)), make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func server(t *testing.T, size int) *hubtest.Server {
	return (&hubtest.Server{Repo: "org/name", Commit: "c0ffee",
		Files: map[string][]byte{gguf: content(size), "config.json": []byte(`{}`)}}).Start(t)
}

func client(t *testing.T, s *hubtest.Server) *Client {
	c, err := NewClient(s.URL(), s.Token, "test")
	require.NoError(t, err)
	c.Wait, c.MaxWait, c.Idle = time.Millisecond, 50*time.Millisecond, 2*time.Second
	return c
}

// fetch lists and downloads the GGUF file into a fresh folder, or into dir.
func fetch(t *testing.T, c *Client, dir string) (string, error) {
	l, err := c.List(context.Background(), "org/name", "")
	if err != nil {
		return "", err
	}
	choice, err := Choose(l, "")
	require.NoError(t, err)
	to := filepath.Join(dir, gguf)
	return to, c.Download(context.Background(), l, choice.Files[0], to, func(int64) {})
}

func requireComplete(t *testing.T, s *hubtest.Server, path string) {
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(s.Files[gguf], got), "the content differs")
	left, err := filepath.Glob(path + ".part*")
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestDownloadInRangesOverAnotherHost(t *testing.T) {
	s := server(t, 3*segment+12345)
	s.Token = "secret"
	path, err := fetch(t, client(t, s), t.TempDir())
	require.NoError(t, err)
	requireComplete(t, s, path)
	assert.Equal(t, 4, s.Requests(), "one request per segment")
	assert.Empty(t, s.Leaked(), "the token went along to the other host")
	again, err := fetch(t, client(t, s), filepath.Dir(path))
	require.NoError(t, err)
	requireComplete(t, s, again)
	assert.Equal(t, 4, s.Requests(), "a complete file is not fetched again")
}

func TestDroppedConnectionsAreTakenUpAgain(t *testing.T) {
	s := server(t, segment+1000)
	var n atomic.Int32
	s.Fault = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		if n.Add(1) <= 4 {
			hubtest.Drop(w, r, content, 100_000)
		}
		return false
	}
	path, err := fetch(t, client(t, s), t.TempDir())
	require.NoError(t, err)
	requireComplete(t, s, path)
}

func TestInterruptedDownloadGoesOn(t *testing.T) {
	s := server(t, 2*segment)
	s.Fault = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		hubtest.Drop(w, r, content, 1<<20)
		return true
	}
	c := client(t, s)
	c.Retries = 1
	dir := t.TempDir()
	path, err := fetch(t, c, dir)
	require.ErrorContains(t, err, "the connection ended at byte")
	assert.NoFileExists(t, path)
	var sent atomic.Int64
	s.Fault = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		var from, to int64
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
		sent.Add(to - from + 1)
		return err != nil
	}
	_, err = fetch(t, client(t, s), dir)
	require.NoError(t, err)
	requireComplete(t, s, path)
	assert.LessOrEqual(t, sent.Load(), int64(2*segment-2<<20), "what was there is not fetched again")
}

func TestAPartOfAnotherVersionIsNotUsed(t *testing.T) {
	s := server(t, 1<<20)
	dir := t.TempDir()
	s.Fault = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		hubtest.Drop(w, r, content, 1000)
		return true
	}
	c := client(t, s)
	c.Retries = 0
	_, err := fetch(t, c, dir)
	require.Error(t, err)
	s.Fault, s.Commit = nil, "beef"
	s.Files[gguf] = bytes.Repeat([]byte("new"), 1<<19)
	path, err := fetch(t, client(t, s), dir)
	require.NoError(t, err)
	requireComplete(t, s, path)
}

func TestFaultsOfTheServer(t *testing.T) {
	answer := func(status int, header ...string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	cases := []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request, []byte) bool
		want  string
	}{
		{"wrong content", func(w http.ResponseWriter, r *http.Request, b []byte) bool {
			http.ServeContent(w, r, gguf, time.Time{}, bytes.NewReader(make([]byte, len(b))))
			return true
		}, "the checksum is"},
		{"longer", func(w http.ResponseWriter, r *http.Request, b []byte) bool {
			http.ServeContent(w, r, gguf, time.Time{}, bytes.NewReader(append(bytes.Clone(b), 1)))
			return true
		}, "were listed"},
		{"wrong range", answer(206, "Content-Range", "bytes 5-9/10"), "got Content-Range"},
		{"401", answer(401), "set HF_TOKEN"}, {"403", answer(403), "accept their terms"}, {"404", answer(404), "no such repository"},
		{"416", answer(416), "not as long as listed"}, {"429 for long", answer(429, "Retry-After", "3600"), "for 1h0m0s"},
		{"429 for ever", answer(429, "Retry-After", "0"), "after 6 tries"}, {"500", answer(500), "after 6 tries"},
		{"redirect loop", func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}, "stopped after 10 redirects"},
		{"silence", func(_ http.ResponseWriter, r *http.Request, _ []byte) bool { <-r.Context().Done(); return true },
			"nothing arrived for"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := server(t, 1<<20)
			s.Fault = c.fault
			k := client(t, s)
			k.Idle = 100 * time.Millisecond
			path, err := fetch(t, k, t.TempDir())
			require.ErrorContains(t, err, c.want)
			assert.NoFileExists(t, path)
		})
	}
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	s := server(t, 1000)
	var n atomic.Int32
	s.Fault = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if n.Add(1) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	c := client(t, s)
	c.MaxWait = 5 * time.Second
	start := time.Now()
	path, err := fetch(t, c, t.TempDir())
	require.NoError(t, err)
	requireComplete(t, s, path)
	assert.Greater(t, time.Since(start), 900*time.Millisecond)
}

func TestServerWithoutRanges(t *testing.T) {
	s := server(t, segment+500)
	s.Fault = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = io.Copy(w, bytes.NewReader(b))
		return true
	}
	path, err := fetch(t, client(t, s), t.TempDir())
	require.NoError(t, err)
	requireComplete(t, s, path)
}

func TestCancelledDownloadLeavesAPart(t *testing.T) {
	s := server(t, 4*segment)
	c := client(t, s)
	l, err := c.List(context.Background(), "org/name", "")
	require.NoError(t, err)
	choice, err := Choose(l, "")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	to := filepath.Join(t.TempDir(), gguf)
	err = c.Download(ctx, l, choice.Files[0], to, func(done int64) {
		if done > segment {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.NoFileExists(t, to)
	assert.FileExists(t, to+".part")
}

func TestSmallFilesAreCheckedAsGitDoes(t *testing.T) {
	s := server(t, 10)
	c := client(t, s)
	l, err := c.List(context.Background(), "org/name", "main")
	require.NoError(t, err)
	for _, f := range l.Files {
		if f.Path != "config.json" {
			continue
		}
		to := filepath.Join(t.TempDir(), "config.json")
		require.NoError(t, c.Download(context.Background(), l, f, to, func(int64) {}))
		f.Blob = "00" + f.Blob[2:]
		require.ErrorContains(t, c.Download(context.Background(), l, f, to+"2", func(int64) {}), "the checksum is")
	}
}

func TestListingsFromStrangers(t *testing.T) {
	for text, want := range map[string]string{
		`{"siblings":[{"rfilename":"../x.gguf"}]}`: "leads out",
		`{"siblings":[{"rfilename":"/etc/x"}]}`:    "leads out", `{"siblings":[{"rfilename":"a\\b"}]}`: "leads out",
		`{"siblings":[{"rfilename":"a","size":-1}]}`: "has the size -1", `[`: "not a listing", `<html>`: "not a listing",
	} {
		mux := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
		c := serve(t, mux)
		_, err := c.List(context.Background(), "org/name", "")
		assert.ErrorContains(t, err, want, text)
	}
}

func TestWithoutANetworkTheErrorSaysWhatToDo(t *testing.T) {
	c, err := NewClient("http://127.0.0.1:1", "", "")
	require.NoError(t, err)
	c.Retries = 0
	_, err = c.List(context.Background(), "org/name", "")
	require.ErrorContains(t, err, "HF_ENDPOINT")
	c.HTTP = nil
	_, err = c.List(context.Background(), "org/name", "")
	require.ErrorIs(t, err, ErrOffline)
	_, err = NewClient("huggingface", "", "")
	require.ErrorContains(t, err, "expected https://host")
}

func TestRefs(t *testing.T) {
	for name, want := range map[string]Ref{
		"org/name": {"org/name", ""}, "hf.co/org/na.me-1:Q4_K_M": {"org/na.me-1", "Q4_K_M"},
		"https://huggingface.co/o/n": {"o/n", ""}, "o/n:a/b.gguf": {"o/n", "a/b.gguf"},
	} {
		got, err := ParseRef(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, got)
	}
	for _, name := range []string{"", "x", "a/b/c", "../b", "a/..", "a/b:", "/a", "a b/c", "./x", "a/b..c",
		"org/" + string(bytes.Repeat([]byte("x"), 200))} {
		assert.False(t, IsRef(name), name)
	}
}

func TestChoice(t *testing.T) {
	listing := func(names ...string) *Listing {
		l := &Listing{Repo: "o/n"}
		for _, n := range names {
			l.Files = append(l.Files, File{Path: n, Size: 1})
		}
		return l
	}
	many := listing("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m.F16.gguf", "mmproj-m-f16.gguf", "sub/m-IQ2_XS-00002-of-00002.gguf",
		"sub/m-IQ2_XS-00001-of-00002.gguf", "README.md")
	hf := listing("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json", "tokenizer.json",
		"README.md", "onnx/model.json", "consolidated.safetensors", "tokenizer.model")
	cases := []struct {
		l          *Listing
		want, name string
		files      int
		err        string
	}{
		{many, "", "Q4_K_M", 1, ""}, {many, "q8_0", "Q8_0", 1, ""}, {many, "F16", "F16", 1, ""}, {many, "IQ2_XS", "IQ2_XS", 2, ""},
		{many, "m-Q8_0.gguf", "Q8_0", 1, ""},
		{many, "Q6_K", "", 0, "it has Q8_0, Q4_K_M, F16, IQ2_XS"}, {many, "x.gguf", "", 0, "no file"},
		{hf, "", "safetensors", 5, ""}, {hf, "Q4_K_M", "", 0, "no GGUF files"},
		{listing("README.md"), "", "", 0, "neither GGUF nor safetensors"}, {listing("m-Q4_0-00001-of-00002.gguf"), "", "", 0,
			"has 1 of its 00002"},
		{listing("m-Q4_0-00002-of-00002.gguf"), "", "", 0, "part 1"}, {listing("odd.gguf"), "", "odd", 1, ""},
	}
	for _, c := range cases {
		got, err := Choose(c.l, c.want)
		if c.err != "" {
			assert.ErrorContains(t, err, c.err)
			continue
		}
		if assert.NoError(t, err) {
			assert.Equal(t, c.name, got.Name)
			assert.Len(t, got.Files, c.files)
		}
	}
}

func TestFullDiskIsToldBeforehand(t *testing.T) {
	free, ok := freeSpace(t.TempDir())
	if !ok {
		t.Skip("SKIPPED: this system does not tell how much space is free; Linux does, and CI")
	}
	d := download{f: File{Path: "x", Size: free + 1}, path: filepath.Join(t.TempDir(), "x")}
	require.ErrorContains(t, d.checkSpace(), "MB more")
}

func serve(t *testing.T, h http.Handler) *Client {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := NewClient(s.URL, "", "")
	require.NoError(t, err)
	c.Retries = 0
	return c
}
