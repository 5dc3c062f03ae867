// Command dither makes a stand-in for an unquantized model out of a quantized one: a GGUF file of F16 weights, each of them
// somewhere in the cell that its quantized value stands for. A quantizer can then not find the old grid again, which it would
// otherwise do to its advantage.
//
//	dither [-seed N] IN.gguf OUT.gguf
//
// The same seed gives the same file on any machine.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	seed := flag.Uint64("seed", 1, "chooses the places within the cells")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: dither [-seed N] IN.gguf OUT.gguf")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := dither(flag.Arg(0), flag.Arg(1), *seed); err != nil {
		fmt.Fprintln(os.Stderr, "dither:", err)
		os.Exit(1)
	}
}
