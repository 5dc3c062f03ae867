package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func (p *program) verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check all checksums of a model and decode everything in it",
		ArgsUsage: "MODEL.ellm",
		Action:    p.verify,
	}
}

func (p *program) verify(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	f, err := openModel(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, err := engine.Describe(f); err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	bar := p.newProgress("verifying")
	err = convert.Verify(ctx, f, bar.stage)
	bar.finish()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Out, "%s: all checksums are right, and all %d tensors decode (%s)\n", path, len(f.Tensors()),
		bytesText(f.FileSize()))
	return nil
}
