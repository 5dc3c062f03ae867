package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/store"
)

func (p *program) listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "list the models of the store",
		Flags: []cli.Flag{jsonFlag()}, Action: p.list,
	}
}

func (p *program) list(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("list: takes no arguments")
	}
	st, err := openStore()
	if err != nil {
		return err
	}
	models, err := st.List()
	if c.Bool("json") {
		if models == nil {
			models = []store.Model{}
		}
		return errors.Join(p.printJSON(models), err)
	}
	w := tabwriter.NewWriter(p.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSIZE\tOPTIONS\tMODIFIED")
	for _, m := range models {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, bytesText(m.Size), m.Options, m.Modified.Local().Format(time.DateTime))
	}
	return errors.Join(w.Flush(), err)
}

func (p *program) showCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "tell where a model of the store came from and where it lies",
		ArgsUsage: "NAME", Flags: []cli.Flag{jsonFlag()}, Action: p.show,
	}
}

func (p *program) show(c *cli.Context) error {
	m, err := p.storedOperand(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(m)
	}
	w := tabwriter.NewWriter(p.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\nsource\t%s\ncommit\t%s\ncompressed with\t%s\nsize\t%s\nmodified\t%s\nfile\t%s\n", m.Name, m.Source,
		m.Commit, m.Options, bytesText(m.Size), m.Modified.Local().Format(time.DateTime), m.Path)
	return w.Flush()
}

func (p *program) storedOperand(c *cli.Context) (store.Model, error) {
	name, err := operand(c, "model")
	if err != nil {
		return store.Model{}, err
	}
	st, err := openStore()
	if err != nil {
		return store.Model{}, err
	}
	return st.Find(name)
}

func (p *program) rmCommand() *cli.Command {
	return &cli.Command{Name: "rm", Usage: "remove a model from the store", ArgsUsage: "NAME", Action: p.rm}
}

func (p *program) rm(c *cli.Context) error {
	name, err := operand(c, "model")
	if err != nil {
		return err
	}
	if _, err := os.Stat(name); err == nil {
		return usagef("rm: %s is a file, not a model of the store", name)
	}
	st, err := openStore()
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := st.Remove(ctx, name)
	if err != nil {
		return err
	}
	p.notef("removed %s (%s)", m.Name, bytesText(m.Size))
	return nil
}

func (p *program) cpCommand() *cli.Command {
	return &cli.Command{Name: "cp", Usage: "give a model of the store a second name", ArgsUsage: "NAME NEW", Action: p.cp}
}

func (p *program) cp(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("cp: expected NAME and NEW name")
	}
	st, err := openStore()
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := st.Copy(ctx, c.Args().Get(0), c.Args().Get(1))
	if err != nil {
		return err
	}
	p.notef("%s is there, too", m.Name)
	return nil
}
