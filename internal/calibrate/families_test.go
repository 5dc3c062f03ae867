package calibrate

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// stored are a model's tensors in memory.
type stored struct {
	cols map[string]int
	w    map[string][]float32
}

func (m *stored) Rows(name string, r0, r1 int, dst []float32) error {
	c := m.cols[name]
	copy(dst, m.w[name][r0*c:r1*c])
	return nil
}

// family reads a tiny model, whose input embedding is a tensor of its own even where the head is tied to it.
func family(t *testing.T, f *testmodel.Family) (*model.Program, *stored) {
	path, err := f.WriteHF(t.TempDir())
	require.NoError(t, err)
	src, err := source.Open(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, src.Close()) }()
	m := &stored{cols: map[string]int{}, w: map[string][]float32{}}
	for i, info := range src.Tensors() {
		m.cols[info.Name], m.w[info.Name] = info.Cols, make([]float32, info.Rows*info.Cols)
		require.NoError(t, src.ReadRows(i, 0, info.Rows, m.w[info.Name]))
	}
	cfg, err := src.Config()
	require.NoError(t, err)
	p, err := model.Build(cfg, func(name string) bool { return m.w[name] != nil })
	require.NoError(t, err)
	const input = "input"
	m.cols[input], m.w[input] = m.cols[model.TokenEmbd], slices.Clone(m.w[model.TokenEmbd])
	p.Nodes[0].Weight = input
	return p, m
}

// logitsOf runs the forward pass of calibration and returns the logits of every position.
func logitsOf(t *testing.T, p *model.Program, w *stored, text []int32) [][]float32 {
	r, err := newRunner(p, w, [][]int32{text})
	require.NoError(t, err)
	r.bufs[model.BufX] = r.streams[0]
	for _, nodes := range r.layers() {
		require.NoError(t, r.load(nodes))
		for k := range nodes {
			require.NoError(t, r.node(&nodes[k], text))
		}
	}
	head := &p.Nodes[len(p.Nodes)-1]
	n, vocab := p.Config.NEmbd, p.Config.NVocab
	all := make([]float32, len(text)*vocab)
	r.isa.MulAdd(linalg.RowMajor(all, vocab), linalg.RowMajor(r.bufs[model.BufNorm], n),
		linalg.RowMajor(w.w[head.Weight], n).T(), len(text), vocab, n, &r.scratch[0])
	out := make([][]float32, len(text))
	for i := range out {
		out[i] = all[i*vocab : (i+1)*vocab]
		finishLogits(head, out[i], make([]float32, vocab))
	}
	return out
}

func forFamilies(t *testing.T, f func(t *testing.T, family *testmodel.Family)) {
	names, err := testmodel.Families()
	require.NoError(t, err)
	for _, name := range names {
		x, err := testmodel.ReadFamily(name)
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) { f(t, x) })
	}
}

// The forward pass of every family is that of transformers in float32.
func TestForwardAgreesWithTransformers(t *testing.T) {
	forFamilies(t, func(t *testing.T, f *testmodel.Family) {
		p, w := family(t, f)
		for _, result := range []*testmodel.FamilyResult{&f.Results.Short, &f.Results.Long} {
			logits := logitsOf(t, p, w, result.Tokens)
			for _, row := range result.Rows {
				noise, signal := 0.0, 0.0
				for i, want := range row.Float32 {
					d := float64(logits[row.Position][i] - want)
					noise, signal = noise+d*d, signal+float64(want)*float64(want)
				}
				assert.Less(t, noise/signal, 1e-6, "position %d of %d", row.Position, len(result.Tokens))
			}
		}
	})
}

// The derivatives of every family by the input embedding pass through every operation: they agree with differences.
func TestDerivativesOfFamiliesAreDifferences(t *testing.T) {
	forFamilies(t, func(t *testing.T, f *testmodel.Family) {
		p, w := family(t, f)
		text := make([]int32, 30) // every token once, beyond the windows
		for i := range text {
			text[i] = int32(3 + 7*i)
		}
		got, err := Differentiate(context.Background(), p, w, [][]int32{text}, func(int64, int64) {})
		require.NoError(t, err)
		predict := func() (all [][]float64) {
			for _, row := range logitsOf(t, p, w, text) {
				probs, sum := make([]float64, len(row)), 0.0
				for i, x := range row {
					probs[i] = math.Exp(float64(x))
					sum += probs[i]
				}
				for i := range probs {
					probs[i] /= sum
				}
				all = append(all, probs)
			}
			return all
		}
		var labels []int
		for i, probs := range predict() {
			f := make([]float32, len(probs))
			for v, x := range probs {
				f[v] = float32(x)
			}
			labels = append(labels, draw(f, rand.New(rand.NewPCG(0, uint64(i))).Float64()))
		}
		logProb := func() (sum float64) {
			for i, probs := range predict() {
				sum += math.Log(probs[labels[i]])
			}
			return sum
		}
		width := p.Config.NEmbd
		for c := 0; c < width; c += width / 3 {
			want := 0.0
			for _, token := range text {
				x := &w.w["input"][int(token)*width+c]
				old := *x
				step := float32(2e-3)
				*x = old + step
				d := logProb()
				*x = old - step
				d -= logProb()
				*x = old
				g := d / float64(2*step)
				want += g * g / float64(len(text))
			}
			assert.InEpsilon(t, want, got.Embedding[c], 0.05, "column %d", c)
		}
	})
}
