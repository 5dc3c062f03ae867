package cli

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
)

func (p *program) exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a model's decoded weights as a GGUF file (F16) that other programs can run",
		ArgsUsage: "MODEL.ellm -o OUT.gguf",
		Flags:     []cli.Flag{outputFlag("the .gguf file to write")},
		Action:    p.export,
	}
}

func (p *program) export(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	out, err := outputPath(c, path)
	if err != nil {
		return err
	}
	p.noteStale(out)
	f, err := openModel(path)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, stop := interruptible(c.Context)
	defer stop()
	bar := p.newProgress("exporting")
	err = convert.Export(ctx, f, out, bar.stage)
	bar.finish()
	if err != nil {
		return err
	}
	st, err := os.Stat(out)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Out, "%s: %s\n", out, bytesText(st.Size()))
	return nil
}
