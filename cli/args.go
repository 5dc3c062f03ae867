package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves options in front of the other arguments, since users write "run MODEL -p TEXT" and the
// flag parser stops at the first argument that is no option. args starts with the program's name.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	head, rest := args[:1:1], args[1:]
	flags, commands := app.Flags, app.Commands
	for len(rest) > 0 {
		cmd := findCommand(commands, rest[0])
		if cmd == nil {
			break
		}
		head, rest = append(head, rest[0]), rest[1:]
		flags, commands = cmd.Flags, cmd.Subcommands
	}
	if len(head) == 1 {
		return args
	}
	options, operands := splitArgs(flags, rest)
	return append(append(append(head, options...), "--"), operands...)
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func splitArgs(flags []cli.Flag, args []string) (options, operands []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return options, append(operands, args[i+1:]...)
		case len(a) < 2 || a[0] != '-':
			operands = append(operands, a)
		default:
			options = append(options, a)
			if takesValue(flags, a) && i+1 < len(args) {
				i++
				options = append(options, args[i])
			}
		}
	}
	return options, operands
}

// takesValue reports whether option a, as written, is followed by its value in the next argument.
func takesValue(flags []cli.Flag, a string) bool {
	name := strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-")
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				_, isBool := f.(*cli.BoolFlag)
				return !isBool
			}
		}
	}
	return false // has "=", is --help, or unknown: the parser says so
}
