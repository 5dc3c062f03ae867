// Command columns measures what steps of columns and code tables for classes of columns win, in bits per weight at equal error.
//
//	columns [-rows N] IN IMATRIX
//
// IMATRIX is what llama-imatrix, or compress --save-imatrix, found about IN. Rows of every matrix are rounded with the steps that
// E[x²]^(−exponent) gives their columns. The error is Σ E[x²]·e², E as in IMATRIX; a bit is a quarter of it. E of the steps is
// also IMATRIX's ("seen"), or what random tokens cause ("guessed"). The levels are coded by their entropy: of all columns
// together, or of -tiles equal parts of the columns, sorted by the magnitude of their levels.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

func main() {
	rows := flag.Int("rows", 128, "rows of each matrix that are looked at")
	tiles := flag.Int("tiles", 4, "classes of columns; more where the container has more tiles")
	flag.Parse()
	if flag.NArg() != 2 || *rows < 1 || *tiles < 1 {
		fmt.Fprintln(os.Stderr, "usage: columns [-rows N] [-tiles N] IN IMATRIX")
		os.Exit(2)
	}
	if err := run(os.Stdout, flag.Arg(0), flag.Arg(1), *rows, *tiles); err != nil {
		fmt.Fprintln(os.Stderr, "columns:", err)
		os.Exit(1)
	}
}

var exponents = [...]float64{0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5}

// gains are bits per weight, as much as the matrices of a kind weigh.
type gains struct {
	weights float64
	bits    [2][len(exponents)]result // by what is seen, and by what is guessed
}

func run(out io.Writer, in, imatrixFile string, rows, tiles int) error {
	src, err := source.Open(in)
	if err != nil {
		return err
	}
	defer src.Close()
	seen, err := imatrix.Read(imatrixFile)
	if err != nil {
		return err
	}
	guessed, err := convert.GuessMeanSquares(context.Background(), src)
	if err != nil {
		return err
	}
	kinds := map[string]*gains{}
	for i, t := range src.Tensors() {
		m := seen.Matrices[t.Name]
		if m == nil || guessed[t.Name] == nil {
			continue
		}
		if len(m.MeanSq) != t.Cols {
			return fmt.Errorf("%s: %s has %d columns, the model's has %d", imatrixFile, t.Name, len(m.MeanSq), t.Cols)
		}
		x, err := sample(src, i, rows)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		bits, err := costs(x, m.MeanSq, guessed[t.Name], tiles)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		parts := strings.Split(t.Name, ".")
		for _, kind := range []string{parts[max(0, len(parts)-2)], "total"} {
			if kinds[kind] == nil {
				kinds[kind] = &gains{}
			}
			kinds[kind].add(bits, float64(t.Rows)*float64(t.Cols))
		}
	}
	if len(kinds) == 0 {
		return fmt.Errorf("%s knows none of the matrices of %s", imatrixFile, in)
	}
	report(out, kinds)
	return nil
}

// costs returns what a matrix takes with every exponent, by what is seen and by what is guessed.
func costs(x *matrix, seen, guessed []float32, tiles int) (*[2][len(exponents)]result, error) {
	var bits [2][len(exponents)]result
	for s, meanSq := range [][]float32{seen, guessed} {
		if convert.ColumnFactors(meanSq, 0) == nil {
			return nil, errors.New("its input is always 0")
		}
		parallel.Do(len(exponents), func(i int) { bits[s][i] = cost(x, seen, convert.ColumnFactors(meanSq, exponents[i]), tiles) })
	}
	return &bits, nil
}

func report(out io.Writer, kinds map[string]*gains) {
	fmt.Fprintln(out, "bits per weight saved, after equal steps and one table     seen            guessed")
	fmt.Fprintln(out, "kind                  weights  exponent       one table  classes  one table  classes")
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		kinds[k].print(out, k)
	}
}

func (g *gains) add(bits *[2][len(exponents)]result, weights float64) {
	g.weights += weights
	for s := range bits {
		for i := range bits[s] {
			g.bits[s][i].single += weights * bits[s][i].single
			g.bits[s][i].classes += weights * bits[s][i].classes
		}
	}
}

func (g *gains) print(out io.Writer, kind string) {
	equal := g.bits[0][0].single
	for i, x := range exponents {
		fmt.Fprintf(out, "%-16s %12.0f %9.2f       ", kind, g.weights, x)
		for s := range g.bits {
			fmt.Fprintf(out, "%9.4f %9.4f ", (equal-g.bits[s][i].single)/g.weights, (equal-g.bits[s][i].classes)/g.weights)
		}
		fmt.Fprintln(out)
	}
}
