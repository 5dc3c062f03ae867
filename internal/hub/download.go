package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	segment     = 16 << 20 // bytes that one request asks for
	connections = 4
	headroom    = 64 << 20 // bytes that stay free on the disk
)

// Download fetches a file of a listing to the path to, which exists only when it is complete and its checksum is right. What an
// interrupted call left in to+".part" is used again. progress is called with the bytes that are there, from several goroutines.
func (c *Client) Download(ctx context.Context, l *Listing, f File, to string, progress func(done int64)) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	if info, err := os.Stat(to); err == nil && info.Size() == f.Size && checkFile(to, f) == nil {
		progress(f.Size)
		return nil
	}
	d := &download{c: c, url: c.address(l.Repo, l.Commit, f.Path), f: f, path: to + ".part", progress: progress}
	if err := d.open(l.Commit); err != nil {
		return err
	}
	defer d.file.Close()
	if err := d.checkSpace(); err != nil {
		return err
	}
	if err := d.run(ctx); err != nil {
		return errors.Join(err, d.save())
	}
	if err := errors.Join(d.file.Sync(), d.file.Close()); err != nil {
		return err
	}
	if err := checkFile(d.path, f); err != nil {
		return errors.Join(err, os.Remove(d.path), os.Remove(d.statePath()))
	}
	if err := os.Rename(d.path, to); err != nil {
		return err
	}
	return os.Remove(d.statePath())
}

// download is a file on its way.
type download struct {
	c        *Client
	url      string
	f        File
	path     string
	file     *os.File
	progress func(int64)

	mu    sync.Mutex
	state downloadState
	saved time.Time
}

// downloadState is kept beside a part, so that another process can go on.
type downloadState struct {
	Commit string  `json:"commit"`
	SHA256 string  `json:"sha256,omitempty"`
	Blob   string  `json:"blob,omitempty"`
	Size   int64   `json:"size"`
	Have   []int64 `json:"have"` // bytes of every segment, from its start
}

func (d *download) statePath() string { return d.path + ".json" }

// open opens the part and reads how much of it is there; a part of another file or version is begun anew.
func (d *download) open(commit string) error {
	want := downloadState{Commit: commit, SHA256: d.f.SHA256, Blob: d.f.Blob, Size: d.f.Size}
	segments := int((d.f.Size + segment - 1) / segment)
	if text, err := os.ReadFile(d.statePath()); err == nil {
		var s downloadState
		if json.Unmarshal(text, &s) == nil && s.sameFile(want) && len(s.Have) == segments && d.fits(s) {
			d.state = s
		}
	}
	flags := os.O_RDWR | os.O_CREATE
	if d.state.Have == nil {
		d.state = want
		d.state.Have = make([]int64, segments)
		flags |= os.O_TRUNC
	}
	var err error
	if d.file, err = os.OpenFile(d.path, flags, 0o666); err != nil {
		return err
	}
	return d.save()
}

func (s downloadState) sameFile(t downloadState) bool {
	if s.SHA256 == "" && s.Blob == "" && s.Commit != t.Commit {
		return false
	}
	return s.SHA256 == t.SHA256 && s.Blob == t.Blob && s.Size == t.Size
}

// fits reports whether the part can hold what the state says of it.
func (d *download) fits(s downloadState) bool {
	info, err := os.Stat(d.path)
	if err != nil {
		return false
	}
	for i, n := range s.Have {
		if n < 0 || n > d.length(i) || n > 0 && int64(i)*segment+n > info.Size() {
			return false
		}
	}
	return true
}

func (d *download) length(i int) int64 { return min(segment, d.f.Size-int64(i)*segment) }

func (d *download) save() error {
	d.mu.Lock()
	text, err := json.Marshal(d.state)
	d.saved = time.Now()
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return os.WriteFile(d.statePath(), text, 0o666)
}

func (d *download) have() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var n int64
	for _, h := range d.state.Have {
		n += h
	}
	return n
}

func (d *download) checkSpace() error {
	free, ok := freeSpace(filepath.Dir(d.path))
	if need := d.f.Size - d.have(); ok && need+headroom > free {
		return fmt.Errorf("%s needs %d MB more on the disk of %s, where %d MB are free", d.f.Path, (need+headroom)>>20,
			filepath.Dir(d.path), free>>20)
	}
	return nil
}

// run fetches all segments that are not complete, over several connections.
func (d *download) run(ctx context.Context) error {
	d.progress(d.have())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			for i := range work {
				if err := d.c.retry(ctx, func() error { return d.fetch(ctx, i) }); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for i := range d.state.Have {
		d.mu.Lock()
		complete := d.state.Have[i] == d.length(i)
		d.mu.Unlock()
		if complete {
			continue
		}
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// fetch asks for the rest of segment i.
func (d *download) fetch(ctx context.Context, i int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(d.c.Idle, func() { cancel(fmt.Errorf("%s: nothing arrived for %s", d.url, d.c.Idle)) })
	defer idle.Stop()
	d.mu.Lock()
	from := int64(i)*segment + d.state.Have[i]
	d.mu.Unlock()
	end := int64(i)*segment + d.length(i)
	resp, err := d.c.get(ctx, d.url, http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, end-1)},
		"Accept-Encoding": {"identity"}})
	if err != nil {
		var status *StatusError
		if errors.As(err, &status) && status.Status == http.StatusRequestedRangeNotSatisfiable {
			return &permanentError{fmt.Errorf("%w: the file is not as long as listed, %d bytes", err, d.f.Size)}
		}
		return cause(ctx, err)
	}
	defer resp.Body.Close()
	if err := d.checkRange(resp, from); err != nil {
		return err
	}
	body := io.Reader(resp.Body)
	if resp.StatusCode == http.StatusOK && from > 0 {
		// The server knows no ranges: what comes before is skipped.
		if _, err := io.CopyN(io.Discard, &reviving{body, idle, d.c.Idle}, from); err != nil {
			return cause(ctx, err)
		}
	}
	return cause(ctx, d.copy(i, from, end, &reviving{body, idle, d.c.Idle}))
}

// cause returns why ctx ended, if it did, instead of what followed from it.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// checkRange compares what the answer says of itself with what was asked for.
func (d *download) checkRange(resp *http.Response, from int64) error {
	size := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		span, total, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "/")
		first, _, _ := strings.Cut(span, "-")
		at, err := strconv.ParseInt(first, 10, 64)
		if !ok || err != nil || at != from {
			return &permanentError{fmt.Errorf("%s: asked for bytes from %d on, got Content-Range %q", d.url, from,
				resp.Header.Get("Content-Range"))}
		}
		size, err = strconv.ParseInt(total, 10, 64)
		if err != nil {
			return nil // "*"
		}
	}
	if size >= 0 && size != d.f.Size {
		return &permanentError{fmt.Errorf("%s has %d bytes, and %d were listed", d.url, size, d.f.Size)}
	}
	return nil
}

// copy writes what arrives to its place and counts it.
func (d *download) copy(i int, from, end int64, body io.Reader) error {
	buf := make([]byte, 256<<10)
	for at := from; at < end; {
		n, err := body.Read(buf[:min(int64(len(buf)), end-at)])
		if n > 0 {
			if _, werr := d.file.WriteAt(buf[:n], at); werr != nil {
				return &permanentError{werr}
			}
			at += int64(n)
			d.mu.Lock()
			d.state.Have[i] += int64(n)
			late := time.Since(d.saved) > 2*time.Second
			d.mu.Unlock()
			d.progress(d.have())
			if late {
				if serr := d.save(); serr != nil {
					return &permanentError{serr}
				}
			}
		}
		if err != nil && at < end {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%s: the connection ended at byte %d of %d: %w", d.url, at, d.f.Size, err)
		}
	}
	return nil
}

// reviving puts off the end of an idle transfer at every read that brings something.
type reviving struct {
	r    io.Reader
	idle *time.Timer
	d    time.Duration
}

func (r *reviving) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.idle.Reset(r.d)
	}
	return n, err
}

// checkFile compares a file with the checksum that the hub lists of it.
func checkFile(name string, f File) error {
	var h hash.Hash
	want := f.SHA256
	switch {
	case f.SHA256 != "":
		h = sha256.New()
	case f.Blob != "":
		h, want = sha1.New(), f.Blob
		fmt.Fprintf(h, "blob %d\x00", f.Size) // as git hashes
	default:
		return nil
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(h, file); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, want) {
		return fmt.Errorf("%s: the checksum is %s, and the hub lists %s: what was downloaded is deleted; try again", f.Path, got, want)
	}
	return nil
}
