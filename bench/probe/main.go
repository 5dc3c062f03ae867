// Command probe finds how much the error of each type of matrix changes a model's predictions, and from it how many bits each
// should get.
//
//	probe -f TEXT [-chunks N] [-kappa K] [-o OFFSETS.json] IN
//
// IN is what ellm-gpu compress takes, OFFSETS.json what its --offsets takes. For every type the model is compressed with steps of
// K times the matrices' rms where it is probed and 2^−Fine of that elsewhere; the KL divergence from the unquantized model is
// what the type's errors do.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	var p probe
	var text, out string
	flag.StringVar(&text, "f", "", "text that the model is judged by; nothing that it is evaluated with later")
	flag.IntVar(&p.chunks, "chunks", 2, "chunks of 512 tokens that are compared, at least 2")
	flag.Float64Var(&p.kappa, "kappa", 0.5, "step of the probed matrices in units of their rms: about the bits per weight that "+
		"are of interest")
	flag.StringVar(&out, "o", "", "file for the offsets")
	flag.Parse()
	if flag.NArg() != 1 || text == "" || p.chunks < minChunks {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &p, flag.Arg(0), text, out); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p *probe, in, text, out string) error {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p.dir = dir
	offsets, err := p.measure(ctx, in, text)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(offsets, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if out == "" {
		_, err = os.Stdout.Write(b)
		return err
	}
	return os.WriteFile(out, b, 0o644)
}
