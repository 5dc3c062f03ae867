package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultEndpoint is the hub that is asked when HF_ENDPOINT names no other.
	DefaultEndpoint = "https://huggingface.co"
	maxListing      = 32 << 20 // bytes of a repository's listing
	maxFiles        = 10_000
)

// A Client asks one hub. Its fields are set before first use.
type Client struct {
	Endpoint  string // without a slash at its end
	Token     string // sent to Endpoint only, never along a redirect to another host
	UserAgent string
	HTTP      *http.Client
	// Retries is how often a request is tried again after a dropped connection, a timeout, a status 408, 429 or 5xx.
	Retries int
	// Wait is how long the first retry waits; each further one waits twice as long. Retry-After goes first, up to MaxWait.
	Wait, MaxWait time.Duration
	// Idle is how long a transfer may stand still.
	Idle time.Duration
}

// NewClient returns a client with the usual settings; an empty endpoint means DefaultEndpoint.
func NewClient(endpoint, token, userAgent string) (*Client, error) {
	if endpoint == "" {
		endpoint = DefaultEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%q is not the address of a hub: expected https://host", endpoint)
	}
	return &Client{
		Endpoint: strings.TrimSuffix(endpoint, "/"), Token: token, UserAgent: userAgent, HTTP: &http.Client{},
		Retries: 5, Wait: time.Second, MaxWait: 2 * time.Minute, Idle: time.Minute,
	}, nil
}

// A File is a file of a repository.
type File struct {
	Path   string
	Size   int64
	SHA256 string // of files that the hub keeps as large ones
	Blob   string // git's SHA-1 of other files
}

// A Listing is the files of a repository at one commit.
type Listing struct {
	Repo, Commit string
	Files        []File
}

// ErrOffline is returned instead of asking a hub by a client without HTTP.
var ErrOffline = errors.New("--offline forbids asking the hub")

// A StatusError is a hub's refusal.
type StatusError struct {
	URL    string
	Status int
	wait   time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.URL, e.Status, http.StatusText(e.Status))
	switch e.Status {
	case http.StatusUnauthorized:
		return text + ": the repository does not exist, or needs a token: set HF_TOKEN"
	case http.StatusForbidden:
		return text + ": the token in HF_TOKEN may not read it; gated models ask you to accept their terms on the model's page first"
	case http.StatusNotFound:
		return text + ": no such repository, revision or file"
	case http.StatusTooManyRequests:
		return text + ": the hub asks to wait; try again later, or set HF_TOKEN for a higher limit"
	}
	return text
}

func (e *StatusError) temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// List returns the files of a repository at a revision (a branch, tag or commit; empty: main).
func (c *Client) List(ctx context.Context, repo, revision string) (*Listing, error) {
	if revision == "" {
		revision = "main"
	}
	at := c.Endpoint + "/api/models/" + repo + "/revision/" + url.PathEscape(revision) + "?blobs=true"
	var out struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
			Size int64  `json:"size"`
			Blob string `json:"blobId"`
			LFS  *struct {
				SHA256 string `json:"sha256"`
				Size   int64  `json:"size"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	err := c.retry(ctx, func() error {
		body, err := c.get(ctx, at, nil)
		if err != nil {
			return err
		}
		defer body.Body.Close()
		data, err := io.ReadAll(io.LimitReader(body.Body, maxListing+1))
		if err != nil {
			return err
		}
		if len(data) > maxListing {
			return &permanentError{fmt.Errorf("%s: a listing of more than %d bytes", at, maxListing)}
		}
		if err := json.Unmarshal(data, &out); err != nil {
			return &permanentError{fmt.Errorf("%s: the answer is not a listing of files: %w", at, err)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(out.Siblings) > maxFiles {
		return nil, fmt.Errorf("%s: %d files; at most %d are expected of a model", at, len(out.Siblings), maxFiles)
	}
	l := &Listing{Repo: repo, Commit: out.SHA}
	for _, s := range out.Siblings {
		if !localPath(s.Name) {
			return nil, fmt.Errorf("%s: file name %q leads out of the repository", at, s.Name)
		}
		f := File{Path: s.Name, Size: s.Size, Blob: s.Blob}
		if s.LFS != nil {
			f.Size, f.SHA256, f.Blob = s.LFS.Size, s.LFS.SHA256, ""
		}
		if f.Size < 0 {
			return nil, fmt.Errorf("%s: file %q has the size %d", at, s.Name, f.Size)
		}
		l.Files = append(l.Files, f)
	}
	if l.Commit == "" {
		l.Commit = revision
	}
	return l, nil
}

// localPath reports whether a repository's path stays below where it is put, on every system.
func localPath(p string) bool {
	return p != "" && !path.IsAbs(p) && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../") &&
		!strings.ContainsAny(p, "\\:\x00")
}

// address returns where a file can be read.
func (c *Client) address(repo, commit, name string) string {
	return c.Endpoint + "/" + repo + "/resolve/" + url.PathEscape(commit) + "/" + (&url.URL{Path: name}).EscapedPath()
}

// permanentError is a failure that another try would only repeat.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// get asks for an address and returns an answer of status 200 or 206.
func (c *Client) get(ctx context.Context, at string, header http.Header) (*http.Response, error) {
	if c.HTTP == nil {
		return nil, &permanentError{ErrOffline}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, &permanentError{err}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if c.UserAgent != "" {
		req.Header.Set("User-Agent", c.UserAgent)
	}
	if c.Token != "" {
		// net/http leaves Authorization out when a redirect leads to another host.
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return nil, &StatusError{at, resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))}
	}
	return resp, nil
}

func retryAfter(v string) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// retry calls f until it succeeds, fails for good, or has been tried often enough.
func (c *Client) retry(ctx context.Context, f func() error) error {
	wait := c.Wait
	for try := 0; ; try++ {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause := wait
		var status *StatusError
		var permanent *permanentError
		switch {
		case errors.As(err, &permanent):
			return permanent.err
		case errors.As(err, &status):
			if !status.temporary() {
				return err
			}
			if status.wait > c.MaxWait {
				return fmt.Errorf("%w (for %s)", err, status.wait.Round(time.Second))
			}
			pause = max(pause, status.wait)
		}
		if try >= c.Retries {
			return fmt.Errorf("%w (after %d tries)%s", err, try+1, networkAdvice(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		wait = min(2*wait, c.MaxWait)
	}
}

// networkAdvice tells what to do when no answer came at all.
func networkAdvice(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return ". Without a network, models in the store still run; another hub can be named by HF_ENDPOINT"
	}
	return ""
}
