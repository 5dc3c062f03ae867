package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// completionCommand prints what makes a shell complete commands, options and files.
func (p *program) completionCommand() *cli.Command {
	return &cli.Command{
		Name:  "completion",
		Usage: "print what makes a shell complete this program's commands and options",
		Description: "For bash: source <(ellm-gpu completion bash), in ~/.bashrc. For zsh: source <(ellm-gpu completion zsh), in " +
			"~/.zshrc. For fish: ellm-gpu completion fish > ~/.config/fish/completions/ellm-gpu.fish",
		ArgsUsage: "bash, zsh or fish",
		Action: func(c *cli.Context) error {
			shell, err := operand(c, "shell")
			if err != nil {
				return err
			}
			var text string
			switch shell {
			case "bash":
				text = bashCompletion(c.App)
			case "zsh":
				text = "autoload -U +X bashcompinit && bashcompinit\n" + bashCompletion(c.App)
			case "fish":
				text, err = c.App.ToFishCompletion()
			default:
				err = usagef("completion %s: expected bash, zsh or fish", shell)
			}
			if err == nil {
				_, err = io.WriteString(p.Out, text)
			}
			return err
		},
	}
}

// bashCompletion returns a function that completes the first words by the names of commands, words that begin with a dash by the
// options of the command, and others by files.
func bashCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString(`_ellm_gpu() {
  local word=${COMP_WORDS[COMP_CWORD]} options='--help --version' names=
`)
	fmt.Fprintf(&b, "  [ \"$COMP_CWORD\" != 1 ] || names='%s'\n  case \"${COMP_WORDS[1]}\" in\n", commandNames(app.Commands))
	for _, c := range app.Commands {
		if c.Hidden || c.Name == "help" {
			continue
		}
		pattern := strings.Join(c.Names(), "|")
		if len(c.Subcommands) == 0 {
			fmt.Fprintf(&b, "  %s) options='%s' ;;\n", pattern, optionNames(c))
			continue
		}
		fmt.Fprintf(&b, "  %s)\n    [ \"$COMP_CWORD\" != 2 ] || names='%s'\n    case \"${COMP_WORDS[2]}\" in\n", pattern,
			commandNames(c.Subcommands))
		for _, s := range c.Subcommands {
			fmt.Fprintf(&b, "    %s) options='%s' ;;\n", strings.Join(s.Names(), "|"), optionNames(s))
		}
		b.WriteString("    esac ;;\n")
	}
	b.WriteString(`  esac
  case "$word" in
  -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
  *) if [ -n "$names" ]; then
      COMPREPLY=($(compgen -W "$names" -- "$word"))
    else
      COMPREPLY=($(compgen -f -- "$word"))
    fi ;;
  esac
}
complete -o filenames -F _ellm_gpu ellm-gpu
`)
	return b.String()
}

func commandNames(all []*cli.Command) string {
	var names []string
	for _, c := range all {
		if !c.Hidden && c.Name != "help" {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, " ")
}

// optionNames returns a command's long options, and the short ones that have no long form.
func optionNames(c *cli.Command) string {
	var all []string
	for _, f := range c.VisibleFlags() {
		long := ""
		for _, n := range f.Names() {
			if utf8.RuneCountInString(n) > 1 {
				long = "--" + n
				break
			}
		}
		if long == "" {
			long = "-" + f.Names()[0]
		}
		all = append(all, long)
	}
	return strings.Join(append(all, "--help"), " ")
}
