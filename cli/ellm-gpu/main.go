// Command ellm-gpu compresses language models and runs them from their compressed weights.
package main

import (
	"context"
	"os"

	"github.com/ellm-gpu/ellm-gpu/cli"
)

// version is set by the Makefile.
var version = "development"

func main() {
	os.Exit(cli.Main(context.Background(), version, os.Args, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
