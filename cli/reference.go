package cli

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// environment lists the variables that the program and its tests read.
var environment = []struct{ name, usage string }{
	{"ELLM_CORRUPTION_SEEDS", "tests of internal/e2e only: how many times each kind of damage is tried in each place"},
	{"ELLM_EMU", "path of the emulator for --device emu; default: ellm-emu beside the program, else on PATH (make emu builds it)"},
	{"ELLM_EMU_DRIVER", "tests only: the device that the emulated driver library shows, as cc=53 version=10020"},
	{"ELLM_GPU_SYNC", "1: wait for every kernel, so that an error names the right one; nothing is captured in CUDA graphs"},
	{"ELLM_IMAGE", "kernels to load: ptx, or sm_53 and others; default: the first image that works"},
	{"ELLM_LIBCUDA", "path of the CUDA driver's library; default: libcuda.so.1 where the system finds it"},
	{"ELLM_KERNELS", "a folder called kernels with compiled kernels to load instead of the embedded ones"},
	{"ELLM_TEST_DEVICE", "tests of package gpu only: the number of a GPU to run them on instead of the emulator"},
	{"ELLM_SOAK", "tests of internal/serve only: how long the server is tested with random requests"},
	{"ELLM_TRIAL", "0: --plan auto goes by predictions alone and times nothing on the GPU; 1: it also times the emulator"},
	{"ELLM_TEST_COUNT", "set by a test of gpu/driver/cuda for the process that it starts"},
	{"ELLM_REQUIRE_EMU", "tests only: 1 makes tests fail that are otherwise skipped without an emulator"},
	{"ELLM_REQUIRE_CHROMIUM", "tests of internal/serve only: 1 makes tests fail that are otherwise skipped without Chromium"},
	{"ELLM_REQUIRE_LLVM", "tests of internal/asm only: 1 makes tests fail that are otherwise skipped without LLVM"},
	{"GODEBUG", "cpu.avx512f=off leaves AVX-512 out, cpu.avx2=off AVX2 too (the Go runtime's switches)"},
}

// docsCommand prints the reference of all commands, as Markdown (docs/cli.md) or as a manual page.
func (p *program) docsCommand() *cli.Command {
	return &cli.Command{
		Name:   "docs",
		Usage:  "print the reference of all commands as Markdown",
		Hidden: true,
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "man", Usage: "as a manual page, for man(1)"}},
		Action: func(c *cli.Context) error {
			r := reference{w: c.App.Writer}
			if c.Bool("man") {
				r.style = manPage{}
			} else {
				r.style = markdown{}
			}
			r.app(c.App)
			return r.err
		},
	}
}

// style is a markup language for the reference.
type style interface {
	title(app *cli.App) string
	heading(text string) string
	command(usage, text string) string
	option(names, text string) string
}

// reference writes what --help tells of all commands.
type reference struct {
	w     io.Writer
	style style
	err   error
}

func (r *reference) print(s string) {
	if r.err == nil {
		_, r.err = io.WriteString(r.w, s)
	}
}

func (r *reference) app(app *cli.App) {
	r.print(r.style.title(app))
	for _, c := range app.Commands {
		r.command(app.Name, c)
	}
	r.print(r.style.heading("Environment"))
	for _, v := range environment {
		r.print(r.style.option(v.name, v.usage))
	}
	r.print(r.style.heading("Exit status"))
	for _, e := range []struct{ code, usage string }{
		{"0", "success"}, {"1", "failure"}, {"2", "a mistake in the command line"}, {"130", "interrupted (Ctrl-C)"},
	} {
		r.print(r.style.option(e.code, e.usage))
	}
}

// command writes c, or its subcommands if it has some; parent is what stands before its name.
func (r *reference) command(parent string, c *cli.Command) {
	name := parent + " " + c.Name
	if c.Hidden || c.Name == "help" {
		return
	}
	if len(c.Subcommands) > 0 {
		for _, s := range c.Subcommands {
			r.command(name, s)
		}
		return
	}
	_, short, _ := strings.Cut(name, " ")
	r.print(r.style.heading(short))
	r.print(r.style.command(strings.TrimSpace(name+" "+c.ArgsUsage), sentence(c.Usage)+sentence(c.Description)))
	for _, f := range c.VisibleFlags() {
		if names, usage, ok := describeFlag(f); ok {
			r.print(r.style.option(names, usage))
		}
	}
}

var placeholder = regexp.MustCompile("`([^`]+)`")

// describeFlag returns a flag's names with the placeholder of its value, and its usage with the default; ok is false for --help.
func describeFlag(f cli.Flag) (names, usage string, ok bool) {
	d, is := f.(cli.DocGenerationFlag)
	if !is || f.Names()[0] == "help" {
		return "", "", false
	}
	usage, value := d.GetUsage(), ""
	if d.TakesValue() {
		value = " VALUE"
		if m := placeholder.FindStringSubmatch(usage); m != nil {
			value = " " + m[1]
		}
	}
	usage = placeholder.ReplaceAllString(usage, "$1")
	var all []string
	for _, n := range f.Names() {
		dash := "--"
		if utf8.RuneCountInString(n) == 1 {
			dash = "-"
		}
		all = append(all, dash+n)
	}
	if def := d.GetDefaultText(); d.TakesValue() && def != "" && def != "0" && def != `""` && !strings.Contains(usage, def) {
		usage += fmt.Sprintf(" (default: %s)", strings.Trim(def, `"`))
	}
	return strings.Join(all, ", ") + value, usage, true
}

// sentence ends a usage text with a full stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(s)
	return strings.ToUpper(string(first)) + strings.TrimSuffix(s[size:], ".") + ". "
}

// markdown writes lines of at most 110 characters.
type markdown struct{}

func (markdown) title(app *cli.App) string {
	return "# Commands of " + app.Name + "\n\n" +
		fold("Written by `ellm-gpu docs` (`make docs`) from the program itself. Options may stand "+
			"before or after other arguments. Results go to standard output, everything else to standard error.", "")
}

func (markdown) heading(text string) string { return "\n## " + text + "\n\n" }

func (markdown) command(usage, text string) string {
	return "    " + usage + "\n\n" + fold(strings.TrimSpace(text), "") + "\n"
}

func (markdown) option(names, text string) string {
	return fold("- `"+names+"`: "+strings.ReplaceAll(text, "*", `\*`), "  ")
}

// fold breaks s at spaces into lines of at most 110 characters; those after the first begin with indent.
func fold(s, indent string) string {
	var b strings.Builder
	width := 0
	for i, w := range strings.Fields(s) {
		n := utf8.RuneCountInString(w)
		switch {
		case i == 0:
		case width+1+n > 110:
			b.WriteString("\n" + indent)
			width = len(indent)
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(w)
		width += n
	}
	return b.String() + "\n"
}

// manPage writes a page for section 1 of the manual.
type manPage struct{}

func (manPage) title(app *cli.App) string {
	return fmt.Sprintf(".TH %s 1\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(app.Name)), roff(app.Name), roff(app.Usage))
}

func (manPage) heading(text string) string { return ".SH " + strings.ToUpper(roff(text)) + "\n" }

func (manPage) command(usage, text string) string {
	return ".B " + roff(usage) + "\n.PP\n" + roff(strings.TrimSpace(text)) + "\n"
}

func (manPage) option(names, text string) string {
	return ".TP\n.B " + roff(names) + "\n" + roff(text) + "\n"
}

// roff escapes text for a manual page; a line cannot begin a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
