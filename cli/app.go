// Package cli is the command line of ellm-gpu: one file per command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
	"github.com/ellm-gpu/ellm-gpu/internal/memory"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// Streams are the program's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// program carries what commands share.
type program struct {
	Streams // what goes to Out is free of control characters
	version string
	text    io.Writer // the text of a model: as it is, but for a terminal
}

// Main runs the command line args (args[0] is the program's name) and returns the exit code.
// Results go to st.Out, everything else to st.Err.
func Main(ctx context.Context, version string, args []string, st Streams) int {
	out := &failingWriter{w: st.Out}
	p := &program{Streams: Streams{In: st.In, Out: printable{out}, Err: st.Err}, version: version, text: out}
	if isTerminal(st.Out) {
		p.text = p.Out
	}
	app := p.app()
	err := startable(memory.Rlimited())
	if err == nil {
		err = fault.Guard(func() error { return app.RunContext(ctx, flagsFirst(app, args)) })
	}
	if err == nil {
		err = out.err
	}
	if err != nil {
		fmt.Fprintf(printable{st.Err}, "ellm-gpu: %s\n", strings.TrimSpace(explain(err)))
	}
	return exitCode(err)
}

// leastRoom is what the program takes for any command: the runtime ends programs that it cannot give memory to, without a word
// that would help.
const leastRoom = 160 << 20

// startable refuses to start with too little room.
func startable(room memory.Limit) error {
	if room.Bytes > 0 && room.Bytes < leastRoom {
		return fmt.Errorf("%w: the %s leaves %d MiB, at least %d are needed", syscall.ENOMEM, room.What, room.Bytes>>20, leastRoom>>20)
	}
	return nil
}

// failingWriter remembers the first error of the writer below it, so that a result that did not reach its file is a failure.
type failingWriter struct {
	w   io.Writer
	err error
}

func (f *failingWriter) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err != nil && f.err == nil {
		f.err = err
	}
	return n, err
}

func (p *program) app() *cli.App {
	app := &cli.App{
		Name:      "ellm-gpu",
		Usage:     "compress language models with Huffman codes and run them from the codes",
		Version:   p.version,
		Reader:    p.In,
		Writer:    p.Out,
		ErrWriter: p.Err,
		Commands: []*cli.Command{
			p.compressCommand(), p.runCommand(), p.inspectCommand(), p.verifyCommand(), p.planCommand(),
			p.devicesCommand(), p.benchCommand(), p.exportCommand(), p.evalCommand(), p.pullCommand(), p.listCommand(),
			p.showCommand(), p.rmCommand(), p.cpCommand(), p.serveCommand(), p.completionCommand(), p.docsCommand(),
		},
		Action: p.noCommand,
		// A comma belongs to a text such as --stop ", ".
		DisableSliceFlagSeparator: true,
		OnUsageError:              onUsageError,
		ExitErrHandler:            func(*cli.Context, error) {}, // Main decides on the exit code
	}
	prepare(app.Commands)
	return app
}

// prepare gives every command the behaviour all share.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true // "verify help" verifies a file called help
		for _, f := range c.Flags {
			checkRange(f)
		}
		prepare(c.Subcommands)
	}
}

func onUsageError(_ *cli.Context, err error, _ bool) error {
	return usagef("%v (--help lists the options)", err)
}

func (p *program) noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	return usagef("there is no command %q (--help lists the commands)", c.Args().First())
}

// interruptible derives a context that the first signal to end cancels; the second one ends the program at once.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, append(hangups(), os.Interrupt)...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// hangups are the signals that end programs from outside: SIGTERM, and that of a closed terminal unless nohup ignores it.
func hangups() []os.Signal {
	if signal.Ignored(syscall.SIGHUP) {
		return []os.Signal{syscall.SIGTERM}
	}
	return []os.Signal{syscall.SIGTERM, syscall.SIGHUP}
}

// operand returns the only argument that is no option; what names it in the error message.
func operand(c *cli.Context, what string) (string, error) {
	switch c.NArg() {
	case 1:
		return c.Args().First(), nil
	case 0:
		return "", usagef("%s: the %s is missing (usage: %s %s)", c.Command.Name, what, c.Command.HelpName, c.Command.ArgsUsage)
	}
	return "", usagef("%s: one %s expected, found %d: %s (quote names with spaces)", c.Command.Name, what, c.NArg(),
		strings.Join(c.Args().Slice(), ", "))
}

// isTerminal reports whether a stream is an interactive terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// notef writes a line for the user to standard error.
func (p *program) notef(format string, args ...any) {
	fmt.Fprintf(printable{p.Err}, format+"\n", args...)
}

// checkInput says early and clearly that path cannot be read as a file: it must exist and be a regular one.
func checkInput(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			return fmt.Errorf("%s: %w", path, pe.Err)
		}
		return err
	}
	if st.IsDir() {
		return fmt.Errorf("%s: is a directory, a file is expected", path)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: is a pipe or device, a regular file is expected", path)
	}
	return nil
}
