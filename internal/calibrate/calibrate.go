// Package calibrate gathers second moments of the inputs of a model's products, S = Σ x·xᵀ, by running the model over text in
// float32. It goes through the model once, layer by layer with all texts in each: the weights of one layer and the moments of its
// inputs are all that is in memory beside the residual streams (for Qwen2.5 1.5B: 350 and 190 MB, and 6 kB for each token).
package calibrate

import (
	"context"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// Weights reads a model's tensors.
type Weights interface {
	// Rows reads rows [r0, r1) of a matrix, or a vector with r0 = 0 and r1 = 1. len(dst) says how many weights are expected.
	Rows(name string, r0, r1 int, dst []float32) error
}

// Visit receives the moments of one input: s is Width × Width, of which the lower triangle is valid, or the diagonal alone, Width
// elements; summed over the given number of tokens. It may write to s, and must not keep it.
type Visit func(in *model.Input, s []float32, tokens int) error

// MeanSquares runs prog like Run, but gathers only E[x²] of every element that enters a product. The result goes from a matrix's
// name to its columns.
func MeanSquares(ctx context.Context, prog *model.Program, w Weights, texts [][]int32,
	progress func(done, total int64)) (map[string][]float32, error) {
	out := map[string][]float32{}
	r, err := newRunner(prog, w, texts)
	if err != nil {
		return nil, err
	}
	r.diagonal = true
	err = r.run(ctx, texts, func(in *model.Input, s []float32, tokens int) error {
		for i := range s {
			s[i] /= float32(tokens)
		}
		for _, w := range in.Weights {
			out[w] = s
		}
		return nil
	}, progress)
	return out, err
}

// Diagonal returns where s, as Visit receives it, has the mean square of element i.
func Diagonal(s []float32, width, i int) int {
	if len(s) == width {
		return i
	}
	return i*width + i
}

// runner is one run.
type runner struct {
	prog    *model.Program
	w       Weights
	isa     linalg.Kernels
	scratch []linalg.Scratch
	ropes   []*rope              // as in prog
	tensors map[string][]float32 // of the current layer
	bufs    [model.NumBuffers][]float32
	streams [][]float32          // per text: the residual stream
	moments map[string][]float32 // by the input's first weight: Width × Width, or with diagonal Width
	inputs  map[string]*model.Input
	specs   map[string]model.TensorSpec
	tokens  int

	diagonal   bool      // only the moments' diagonal is wanted
	samples    int       // below as many tokens per element only the diagonal is kept
	transposed []float32 // of gather
}

// Run executes prog on every text from an empty cache, and passes the moments of every input on; of inputs with fewer than
// samples tokens for each element, the diagonal. Progress is called with nodes·texts done.
func Run(ctx context.Context, prog *model.Program, w Weights, texts [][]int32, samples int, visit Visit,
	progress func(done, total int64)) error {
	r, err := newRunner(prog, w, texts)
	if err != nil {
		return err
	}
	r.samples = samples
	return r.run(ctx, texts, visit, progress)
}

func (r *runner) run(ctx context.Context, texts [][]int32, visit Visit, progress func(done, total int64)) error {
	prog := r.prog
	inputs := prog.Inputs()
	for i := range inputs {
		r.inputs[inputs[i].Weights[0]] = &inputs[i]
	}
	done, total := int64(0), int64(len(prog.Nodes)*len(texts))
	for _, nodes := range r.layers() {
		if err := r.load(nodes); err != nil {
			return err
		}
		for i, t := range texts {
			if err := ctx.Err(); err != nil {
				return err
			}
			r.bufs[model.BufX] = r.streams[i]
			for k := range nodes {
				if err := r.node(&nodes[k], t); err != nil {
					return err
				}
			}
			if done += int64(len(nodes)); progress != nil {
				progress(done, total)
			}
		}
		if err := r.visit(nodes, visit); err != nil {
			return err
		}
	}
	return nil
}

func newRunner(prog *model.Program, w Weights, texts [][]int32) (*runner, error) {
	r := &runner{prog: prog, w: w, isa: linalg.Best(), scratch: linalg.NewScratch(), inputs: map[string]*model.Input{},
		specs: map[string]model.TensorSpec{}}
	longest := 0
	for _, t := range texts {
		longest = max(longest, len(t))
		r.tokens += len(t)
	}
	if longest == 0 {
		return nil, fmt.Errorf("no text to calibrate with")
	}
	for b := range r.bufs {
		if model.Buffer(b) != model.BufLogits {
			r.bufs[b] = make([]float32, longest*prog.Width(model.Buffer(b)))
		}
	}
	for _, t := range texts {
		r.streams = append(r.streams, make([]float32, len(t)*prog.Config.NEmbd))
	}
	for i := range prog.Ropes {
		rope, err := newRope(&prog.Ropes[i], w, longest)
		if err != nil {
			return nil, err
		}
		r.ropes = append(r.ropes, rope)
	}
	for _, t := range prog.Tensors() {
		r.specs[t.Name] = t
	}
	return r, nil
}

// layers splits the nodes into layers; those before and after them are one each.
func (r *runner) layers() (out [][]model.Node) {
	all := r.prog.Nodes
	for first := 0; first < len(all); {
		next := first + 1
		for next < len(all) && all[next].Layer == all[first].Layer {
			next++
		}
		out = append(out, all[first:next])
		first = next
	}
	return out
}

// load reads the weights of some nodes and clears the moments of their inputs. The embedding and the matrix of the logits are
// read where they are used, some rows at a time.
func (r *runner) load(nodes []model.Node) error {
	r.tensors, r.moments = map[string][]float32{}, map[string][]float32{}
	for i := range nodes {
		n := &nodes[i]
		if n.Op != model.OpEmbed && n.Dst != model.BufLogits {
			if err := r.read(n.Weight); err != nil {
				return err
			}
		}
		if err := r.read(n.Bias); err != nil {
			return err
		}
		if in := r.inputs[n.Weight]; in != nil && n.Op == model.OpMatMul {
			r.moments[n.Weight] = make([]float32, r.momentsLen(in.Width))
		}
	}
	return nil
}

// momentsLen returns how many moments of an input of the given width are kept.
func (r *runner) momentsLen(width int) int {
	if r.diagonal || r.tokens < r.samples*width {
		return width
	}
	return width * width
}

// read reads a tensor, if there is a name.
func (r *runner) read(name string) (err error) {
	if name == "" {
		return nil
	}
	t := r.specs[name]
	if !t.Vector() {
		r.tensors[name], err = r.rows(name, 0, t.Rows, t.Cols)
		return err
	}
	r.tensors[name] = make([]float32, t.Cols)
	return r.w.Rows(name, 0, 1, r.tensors[name])
}

// rows reads rows of a matrix on all cores.
func (r *runner) rows(name string, first, rows, cols int) ([]float32, error) {
	const strip = 64
	dst := make([]float32, rows*cols)
	errs := make([]error, (rows+strip-1)/strip)
	r.parallel(len(errs), func(k int, _ *linalg.Scratch) {
		r0, r1 := k*strip, min(rows, (k+1)*strip)
		errs[k] = r.w.Rows(name, first+r0, first+r1, dst[r0*cols:r1*cols])
	})
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
	}
	return dst, nil
}

func (r *runner) visit(nodes []model.Node, visit Visit) error {
	for i := range nodes {
		w := nodes[i].Weight
		s := r.moments[w]
		if s == nil {
			continue
		}
		delete(r.moments, w)
		for i := range r.inputs[w].Width {
			if x := s[Diagonal(s, r.inputs[w].Width, i)]; x-x != 0 {
				return fmt.Errorf("the input of %s is not a finite number (is the model damaged?)", w)
			}
		}
		if err := visit(r.inputs[w], s, r.tokens); err != nil {
			return err
		}
	}
	return nil
}

// strip is the number of rows or columns that one worker computes at a time.
const strip = 128

// gather adds the moments of t vectors x of width n to s.
func (r *runner) gather(s, x []float32, n, t int) {
	if len(s) == n {
		for i := range t {
			for c, v := range x[i*n : (i+1)*n] {
				s[c] += v * v
			}
		}
		return
	}
	if len(r.transposed) < n*t {
		r.transposed = make([]float32, n*t)
	}
	m, mt := linalg.RowMajor(x, n), linalg.RowMajor(r.transposed, t)
	strips := (n + strip - 1) / strip
	r.parallel(strips, func(k int, _ *linalg.Scratch) { // so that the products read memory in order
		for i := k * strip; i < min(n, (k+1)*strip); i += 16 {
			for j := range t {
				for c, v := range x[j*n+i : j*n+min(i+16, n)] {
					mt.Data[(i+c)*t+j] = v
				}
			}
		}
	})
	r.parallel(strips, func(k int, scratch *linalg.Scratch) {
		i := (strips - 1 - k) * strip // long strips first
		rows := min(strip, n-i)
		r.isa.MulAdd(linalg.RowMajor(s, n).From(i, 0), mt.From(i, 0), m, rows, i+rows, t, scratch)
	})
}

// multiply sets y to x·Wᵀ plus a bias for t vectors.
func (r *runner) multiply(y, x, w, bias []float32, in, out, t int) {
	for i := range t {
		clear(y[i*out : (i+1)*out])
		copy(y[i*out:(i+1)*out], bias)
	}
	r.parallel((out+strip-1)/strip, func(k int, scratch *linalg.Scratch) {
		j := k * strip
		r.isa.MulAdd(linalg.RowMajor(y, out).From(0, j), linalg.RowMajor(x, in), linalg.RowMajor(w, in).From(j, 0).T(), t,
			min(strip, out-j), in, scratch)
	})
}

// parallel is linalg.Parallel.
func (r *runner) parallel(n int, f func(k int, s *linalg.Scratch)) { parallel.With(r.scratch, n, f) }
