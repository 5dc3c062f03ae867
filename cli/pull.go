package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/hub"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/shapes"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/store"
)

func (p *program) pullCommand() *cli.Command {
	return &cli.Command{
		Name:  "pull",
		Usage: "download a model from the Hugging Face hub and compress it into the store",
		Description: "The model is compressed to the most bits per weight with which it fits this machine's memory, unless an " +
			"option says otherwise.\nAn interrupted download goes on where it ended. HF_TOKEN is sent to the hub, HF_ENDPOINT " +
			"names another one.",
		ArgsUsage: "ORG/NAME[:FILE or quantization]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "name in the store; default: ORG/NAME:QUANTIZATION"},
			&cli.StringFlag{Name: "revision", Usage: "branch, tag or commit; default: main"},
			&cli.Float64Flag{Name: "bpw", Usage: fmt.Sprintf("compress to this many bits per weight, %g to %g", convert.MinBPW,
				convert.MaxBPW)},
			&cli.StringFlag{Name: "size", Usage: "compress to this many bytes, as 900M or 0.85GiB"},
			&cli.BoolFlag{Name: "as-is", Aliases: []string{"lossless"}, Usage: "keep the weights of the file exactly"},
			&cli.BoolFlag{Name: "keep", Usage: "keep the downloaded files, too"},
			&cli.BoolFlag{Name: "offline", Usage: "ask no hub: go by what is in the store"},
			ctxFlag(), deviceFlag(), jsonFlag(),
			&cli.StringFlag{Name: "memory", Usage: "memory that the model may take, for example 2GiB; default: what is free"},
		},
		Action: p.pull,
	}
}

// pullOptions are what pull and "run NAME" ask for.
type pullOptions struct {
	ref                    hub.Ref
	name, revision, device string
	convert                convert.Options // with neither BPW, Size nor Scheme: the best that fits
	keep, offline          bool
	load                   engine.LoadOptions // context and memory to fit
	// report, if set, is told of every stage, from several goroutines; digest is that of the file which is downloaded.
	report func(status, digest string, done, total int64)
}

func (o *pullOptions) tell(status, digest string, done, total int64) {
	if o.report != nil {
		o.report(status, digest, done, total)
	}
}

func (p *program) pull(c *cli.Context) error {
	name, err := operand(c, "model")
	if err != nil {
		return err
	}
	ref, err := hub.ParseRef(name)
	if err != nil {
		return usagef("pull: %v", err)
	}
	opt := pullOptions{ref: ref, name: c.String("name"), revision: c.String("revision"), device: c.String("device"),
		keep: c.Bool("keep"), offline: c.Bool("offline"), load: engine.LoadOptions{Plan: engine.PlanAuto, NCtx: c.Int("ctx"),
			KVType: engine.KVF16}}
	if opt.load.NCtx < 0 || opt.load.NCtx > maxCtx {
		return usagef("--ctx %d: expected 0 to %d", opt.load.NCtx, maxCtx)
	}
	if s := c.String("memory"); s != "" {
		if opt.load.MemoryBudget, err = parseBytes(s); err != nil {
			return usagef("--memory %s: %v", s, err)
		}
	}
	if opt.convert, err = pullScheme(c); err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := p.pullModel(ctx, opt)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(m)
	}
	fmt.Fprintf(p.Out, "%s: %s\n", m.Name, bytesText(m.Size))
	p.notef("run it with: ellm-gpu run %s", m.Name)
	return nil
}

func pullScheme(c *cli.Context) (convert.Options, error) {
	var opt convert.Options
	if n := countSet(c, "bpw", "size", "as-is"); n > 1 {
		return opt, usagef("pull: --bpw, --size and --as-is exclude each other")
	}
	switch {
	case c.IsSet("bpw"):
		opt.BPW = c.Float64("bpw")
		if !(opt.BPW >= convert.MinBPW && opt.BPW <= convert.MaxBPW) {
			return opt, usagef("--bpw %g: expected %g to %g", opt.BPW, convert.MinBPW, convert.MaxBPW)
		}
	case c.IsSet("size"):
		var err error
		if opt.Size, err = parseBytes(c.String("size")); err != nil {
			return opt, usagef("--size %s: %v", c.String("size"), err)
		}
	case c.Bool("as-is"):
		opt.Scheme = convert.SchemeLossless
	}
	return opt, nil
}

func countSet(c *cli.Context, names ...string) int {
	n := 0
	for _, name := range names {
		if c.IsSet(name) {
			n++
		}
	}
	return n
}

// openStore returns the user's store of models.
func openStore() (*store.Store, error) {
	dir, err := store.Home(os.Getenv)
	if err != nil {
		return nil, err
	}
	return store.Open(dir), nil
}

// pullModel downloads, compresses and stores a model.
func (p *program) pullModel(ctx context.Context, opt pullOptions) (store.Model, error) {
	opt.tell("pulling manifest", "", 0, 0)
	st, err := openStore()
	if err != nil {
		return store.Model{}, err
	}
	client, err := hub.NewClient(os.Getenv("HF_ENDPOINT"), os.Getenv("HF_TOKEN"), "ellm-gpu/"+p.version)
	if err != nil {
		return store.Model{}, err
	}
	if opt.offline {
		client.HTTP = nil
	}
	list, err := client.List(ctx, opt.ref.Repo, opt.revision)
	if err != nil {
		return store.Model{}, err
	}
	choice, err := hub.Choose(list, opt.ref.Want)
	if err != nil {
		return store.Model{}, err
	}
	if opt.name == "" {
		opt.name = opt.ref.Repo + ":" + choice.Name
	} else if !strings.Contains(opt.name, ":") {
		opt.name += ":" + choice.Name
	}
	if err := store.CheckName(opt.name); err != nil {
		return store.Model{}, usagef("--name: %v", err)
	}
	dir := st.Downloads(opt.ref.Repo, list.Commit)
	// One process at a time fetches a repository; others find its files.
	unlock, err := st.Lock(ctx, "download "+opt.ref.Repo)
	if err != nil {
		return store.Model{}, err
	}
	defer unlock()
	if err := p.download(ctx, client, opt, list, choice, dir); err != nil {
		return store.Model{}, err
	}
	m, err := p.storeModel(ctx, st, opt, list, choice, dir)
	if err != nil {
		return m, fmt.Errorf("%w (the downloaded files stay in %s)", err, dir)
	}
	if !opt.keep {
		err = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir)) // succeeds if it is empty
	}
	return m, err
}

func (p *program) download(ctx context.Context, client *hub.Client, opt pullOptions, list *hub.Listing, choice *hub.Choice,
	dir string) error {
	p.notef("%s %s: %d files, %s", list.Repo, choice.Name, len(choice.Files), bytesText(choice.Size()))
	bar := p.newProgress("downloading")
	defer bar.finish()
	var before int64
	for _, f := range choice.Files {
		var most atomic.Int64
		status, digest := "pulling "+f.Path, ""
		if f.SHA256 != "" {
			digest = "sha256:" + f.SHA256
			status = "pulling " + f.SHA256[:min(12, len(f.SHA256))]
		}
		err := client.Download(ctx, list, f, filepath.Join(dir, filepath.FromSlash(f.Path)), func(done int64) {
			most.Store(max(most.Load(), done))
			all := before + most.Load()
			opt.tell(status, digest, most.Load(), f.Size)
			bar.updateNote(all, choice.Size(), bytesText(all)+" of "+bytesText(choice.Size()))
		})
		if err != nil {
			return err
		}
		before += f.Size
	}
	return nil
}

// storeModel compresses downloaded files into the store.
func (p *program) storeModel(ctx context.Context, st *store.Store, opt pullOptions, list *hub.Listing, choice *hub.Choice,
	dir string) (store.Model, error) {
	src, err := source.Open(filepath.Join(dir, filepath.FromSlash(choice.Main)))
	if err != nil {
		return store.Model{}, err
	}
	defer src.Close()
	if opt.convert.BPW == 0 && opt.convert.Size == 0 && opt.convert.Scheme == "" {
		if opt.convert, err = p.bestFit(src, opt, choice.Size()); err != nil {
			return store.Model{}, err
		}
	}
	var files []string
	for _, f := range choice.Files {
		files = append(files, f.Path)
	}
	m := store.Manifest{Name: opt.name, Source: opt.ref.String(), Commit: list.Commit, Files: files,
		Options: schemeText(opt.convert)}
	return st.Add(ctx, m, func(path string) error {
		bar := p.newProgress("compressing")
		defer bar.finish()
		stage := func(name string, done, total int64) {
			opt.tell("compressing: "+name, "", done, total)
			bar.stage(name, done, total)
		}
		_, err := convert.Compress(ctx, src, path, opt.convert, stage)
		if err == nil {
			opt.tell("writing manifest", "", 0, 0)
		}
		return err
	})
}

func schemeText(o convert.Options) string {
	switch {
	case o.Scheme != "":
		return "--" + string(o.Scheme)
	case o.Size > 0:
		return fmt.Sprintf("--size %d", o.Size)
	}
	return fmt.Sprintf("--bpw %g", o.BPW)
}

// fitBits are the bits per weight that are tried, best first. Above 6, divergence falls below what sampling shows
// (docs/quality.md).
var fitBits = []float64{6, 5.5, 5, 4.5, 4, 3.5, 3, 2.75, 2.5, 2.25, 2}

// bestFit chooses the best options with which the model fits the device's memory: its weights as they are if they were quantized
// already, or else the most bits per weight.
func (p *program) bestFit(src source.Model, opt pullOptions, bytes int64) (convert.Options, error) {
	cfg, err := src.Config()
	if err != nil {
		return convert.Options{}, err
	}
	tensors, weights, quantized, exact := src.Tensors(), int64(0), false, true
	for _, t := range tensors {
		weights += int64(t.Rows) * int64(t.Cols)
		quantized = quantized || t.Layout != nil
		exact = exact && (t.Layout != nil || slices.Contains([]string{"F32", "F16", "BF16"}, t.Type))
	}
	quantized = quantized && exact // others cannot be kept as they are
	prog, err := model.Build(cfg, func(name string) bool {
		return slices.ContainsFunc(tensors, func(t source.TensorInfo) bool { return t.Name == name })
	})
	if err != nil {
		return convert.Options{}, err
	}
	pl, err := p.planner(opt.device)
	if err != nil {
		return convert.Options{}, err
	}
	load := opt.load
	load.NCtx = engine.ContextLength(&prog.Config, load.NCtx)
	fits := func(bits float64) (engine.MemoryPlan, error) {
		f, err := shapes.StandIn(cfg.Name, prog, bits)
		if err != nil {
			return engine.MemoryPlan{}, err
		}
		m, _, err := pl.plan(f, prog, load)
		return m, errors.Join(err, f.Close())
	}
	own := 8 * float64(bytes) / float64(weights)
	if quantized && own <= shapes.MaxBits {
		if m, err := fits(own); err == nil {
			p.notef("%.1f bits per weight fit (%s): the weights are kept as they are", own, planLine(m))
			return convert.Options{Scheme: convert.SchemeLossless}, nil
		}
	}
	for _, bits := range fitBits {
		if quantized && bits >= own {
			continue
		}
		m, ferr := fits(bits)
		if ferr == nil {
			p.notef("%g bits per weight fit (%s)", bits, planLine(m))
			return convert.Options{BPW: bits}, nil
		}
		err = ferr
	}
	return convert.Options{}, fmt.Errorf("the model does not fit even with %g bits per weight: %w", fitBits[len(fitBits)-1], err)
}

// modelOperand returns the path of the model that the command line names: a file, or a model of the store by name.
func (p *program) modelOperand(c *cli.Context) (string, error) {
	name, err := operand(c, "model")
	if err != nil {
		return "", err
	}
	m, err := p.findModel(name)
	if errors.Is(err, store.ErrNotFound) && hub.IsRef(name) {
		return "", fmt.Errorf("%w (\"ellm-gpu pull %s\" obtains it)", err, name)
	}
	return m, err
}

// findModel returns the path of a file or of a model of the store. What is neither is returned as it is, so that the error is
// that of a file.
func (p *program) findModel(name string) (string, error) {
	if _, err := os.Stat(name); err == nil || strings.HasSuffix(name, ".ellm") || store.CheckName(name) != nil && !hub.IsRef(name) {
		return name, nil
	}
	st, err := openStore()
	if err != nil {
		return "", err
	}
	m, err := st.Find(strings.TrimPrefix(name, "hf.co/"))
	if err != nil {
		return "", err
	}
	return m.Path, nil
}

// pulledOperand is modelOperand for commands that pull what is missing.
func (p *program) pulledOperand(ctx context.Context, c *cli.Context) (string, error) {
	name, err := operand(c, "model")
	if err != nil {
		return "", err
	}
	path, err := p.findModel(name)
	ref, referr := hub.ParseRef(name)
	if !errors.Is(err, store.ErrNotFound) || referr != nil {
		return path, err
	}
	if c.Bool("offline") {
		return "", fmt.Errorf("%w, and %w", err, hub.ErrOffline)
	}
	load, lerr := loadOptions(c)
	if lerr != nil {
		return "", lerr
	}
	m, err := p.pullModel(ctx, pullOptions{ref: ref, device: c.String("device"), load: load})
	return m.Path, err
}
