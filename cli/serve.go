package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/hub"
	"github.com/ellm-gpu/ellm-gpu/internal/serve"
	"github.com/ellm-gpu/ellm-gpu/internal/store"
)

func (p *program) serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "answer HTTP requests as OpenAI, Anthropic, ollama and llama.cpp do, and show a chat page",
		Description: "Without MODEL, the models of the store are served by name. docs/serve.md tells how to run the server " +
			"for others.",
		ArgsUsage: "[MODEL.ellm or NAME …]",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "host", Value: "127.0.0.1", Usage: "address to listen on; 0.0.0.0 lets other machines ask"},
			&cli.IntFlag{Name: "port", Value: 8080, Usage: "port to listen on; 0 = a free one"},
			&cli.StringSliceFlag{Name: "api-key", Usage: "require this key; may be repeated"},
			&cli.StringFlag{Name: "api-key-file", Usage: "require one of the keys in this file, a line each"},
			&cli.StringSliceFlag{Name: "cors", Usage: "let web pages of this `ORIGIN` ask; may be repeated; * = all"},
			&cli.IntFlag{Name: "parallel", Aliases: []string{"np"}, Value: 4, Usage: "requests computed together"},
			&cli.IntFlag{Name: "cache-tokens", Usage: "tokens of the cache that these share; 0 = twice the context"},
			&cli.IntFlag{Name: "queue", Value: 64, Usage: "requests that may wait beside them"},
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "time limit of one request"},
			&cli.DurationFlag{Name: "drain-timeout", Value: 30 * time.Second,
				Usage: "how long requests may go on after SIGTERM or Ctrl-C"},
			&cli.DurationFlag{Name: "keep-alive", Value: 30 * time.Minute, Usage: "unload a model not used for so long; 0 = never"},
			&cli.IntFlag{Name: "max-models", Value: 1, Usage: "models in memory at once"},
			&cli.StringFlag{Name: "max-body", Value: "8M", Usage: "largest request"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
			ctxFlag(),
		}, deviceFlags()...),
		Action: p.serve,
	}
}

func (p *program) serve(c *cli.Context) error {
	opt, err := p.serveOptions(c)
	if err != nil {
		return err
	}
	lib, err := p.newLibrary(c)
	if err != nil {
		return err
	}
	opt.Library = lib
	listener, err := net.Listen("tcp", net.JoinHostPort(c.String("host"), strconv.Itoa(c.Int("port"))))
	if err != nil {
		return fmt.Errorf("%w (--port N takes another one)", err)
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	s := serve.New(opt)
	h := s.HTTP()
	failed := make(chan error, 2)
	go func() { failed <- h.Serve(listener) }()
	p.notef("listening on http://%s", listener.Addr())
	if len(lib.named) > 0 { // so that a mistake shows now
		go func() {
			if err := s.Preload(ctx, lib.named[0].name); err != nil && ctx.Err() == nil {
				failed <- err
			}
		}()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
		stop() // a second signal ends the program at once
		err = p.drain(s, h, c.Duration("drain-timeout"))
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, h.Close(), s.Close())
}

// drain lets requests in progress end.
func (p *program) drain(s *serve.Server, h *http.Server, limit time.Duration) error {
	p.notef("shutting down: waiting up to %s for requests in progress", limit)
	s.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		p.notef("requests were cut off: %v", err)
	}
	return nil
}

func (p *program) serveOptions(c *cli.Context) (serve.Options, error) {
	opt := serve.Options{Version: "ellm-gpu " + p.version, APIKeys: c.StringSlice("api-key"), Origins: c.StringSlice("cors"),
		Idle: c.Duration("keep-alive"), Queue: c.Int("queue"), Timeout: c.Duration("timeout"), Loaded: c.Int("max-models")}
	for _, name := range []string{"timeout", "keep-alive", "drain-timeout"} {
		if d := c.Duration(name); d < 0 || name == "timeout" && d == 0 {
			return opt, usagef("--%s %s: expected a time such as 90s or 10m", name, d)
		}
	}
	var err error
	if opt.MaxBody, err = parseBytes(c.String("max-body")); err != nil {
		return opt, usagef("--max-body %s: %v", c.String("max-body"), err)
	}
	if file := c.String("api-key-file"); file != "" {
		text, err := p.readFile(file)
		if err != nil {
			return opt, err
		}
		opt.APIKeys = append(opt.APIKeys, strings.Fields(text)...)
		if len(opt.APIKeys) == 0 {
			return opt, fmt.Errorf("%s: holds no key", file)
		}
	}
	switch f := c.String("log-format"); f {
	case "text":
		opt.Log = slog.New(slog.NewTextHandler(p.Err, nil))
	case "json":
		opt.Log = slog.New(slog.NewJSONHandler(p.Err, nil))
	default:
		return opt, usagef("--log-format %s: expected text or json", f)
	}
	if !c.Args().Present() {
		opt.Pull = p.servedPull(c)
	}
	return opt, nil
}

// servedPull lets clients fill the store that is served.
func (p *program) servedPull(c *cli.Context) serve.PullFunc {
	return func(ctx context.Context, name string, report func(serve.PullProgress)) error {
		ref, err := hub.ParseRef(name)
		if err != nil {
			return err
		}
		load, err := loadOptions(c)
		if err != nil {
			return err
		}
		opt := pullOptions{ref: ref, device: c.String("device"), load: load}
		opt.report = func(status, digest string, done, total int64) {
			report(serve.PullProgress{Status: status, Digest: digest, Done: done, Total: total})
		}
		_, err = p.pullModel(ctx, opt)
		return err
	}
}

// library is the models that serve offers: files and names of the command line, or all of the store.
type library struct {
	p        *program
	named    []named // in the order of the command line; empty: the store
	store    *store.Store
	device   string
	load     engine.LoadOptions
	parallel int
}

type named struct{ name, path string }

func (p *program) newLibrary(c *cli.Context) (*library, error) {
	load, err := loadOptions(c)
	if err != nil {
		return nil, err
	}
	st, err := openStore()
	if err != nil {
		return nil, err
	}
	load.Sequences, load.CacheTokens = c.Int("parallel"), c.Int("cache-tokens")
	l := &library{p: p, store: st, device: c.String("device"), load: load, parallel: c.Int("parallel")}
	for _, name := range c.Args().Slice() {
		path, err := p.findModel(name)
		if err != nil {
			return nil, err
		}
		if err := checkInput(path); err != nil {
			return nil, err
		}
		if path == name {
			name = strings.TrimSuffix(filepath.Base(name), ".ellm")
		}
		l.named = append(l.named, named{name, path})
	}
	return l, nil
}

// List implements serve.Library.
func (l *library) List() ([]serve.ModelInfo, error) {
	var out []serve.ModelInfo
	if len(l.named) > 0 {
		var failed []error
		for _, n := range l.named {
			st, err := os.Stat(n.path)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			out = append(out, serve.ModelInfo{Name: n.name, Size: st.Size(), Modified: st.ModTime()})
		}
		return out, errors.Join(failed...)
	}
	models, err := l.store.List()
	for _, m := range models {
		out = append(out, serve.ModelInfo{Name: m.Name, Size: m.Size, Modified: m.Modified})
	}
	return out, err
}

// Find implements serve.Library. Where one model is served, it answers whatever name is asked for, as llama.cpp's server does.
func (l *library) Find(name string) (string, error) {
	for _, n := range l.named {
		if n.name == name || len(l.named) == 1 || name == "" {
			return n.name, nil
		}
	}
	if len(l.named) > 0 {
		return "", fmt.Errorf("%w: %q", serve.ErrNoModel, name)
	}
	if name == "" {
		all, err := l.store.List()
		if len(all) != 1 {
			return "", errors.Join(fmt.Errorf("%w: the request names none, and %d are served", serve.ErrNoModel, len(all)), err)
		}
		return all[0].Name, nil
	}
	m, err := l.store.Find(strings.TrimSuffix(name, ":latest"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", serve.ErrNoModel, err)
	}
	return m.Name, nil
}

// Load implements serve.Library.
func (l *library) Load(ctx context.Context, name string) (*serve.Loaded, error) {
	path := ""
	for _, n := range l.named {
		if n.name == name {
			path = n.path
		}
	}
	if path == "" {
		m, err := l.store.Find(name)
		if err != nil {
			return nil, err
		}
		path = m.Path
	}
	f, err := openModel(path)
	if err != nil {
		return nil, err
	}
	prog, _, err := engine.Describe(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b, err := l.p.openBackend(l.device)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	opt := l.load
	if opt.CacheTokens == 0 {
		opt.CacheTokens = min(opt.Sequences, 2) * engine.ContextLength(&prog.Config, opt.NCtx)
	}
	opt.Announce = func(m engine.MemoryPlan) { l.p.notef("%s", planLine(m)) }
	e, err := engine.New(ctx, f, b, opt)
	if err != nil {
		return nil, errors.Join(err, b.Close(), f.Close())
	}
	return &serve.Loaded{Engine: e, Template: f.Meta().ChatTemplate, Parallel: l.parallel,
		Close: func() error { return errors.Join(b.Close(), f.Close()) }}, nil
}
