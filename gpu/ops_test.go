package gpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func normals(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// toHalf rounds to float16 and back.
func toHalf(x float32) float32 { return float16.Fromfloat32(x).Float32() }

func testRand() *rand.Rand { return rand.New(rand.NewPCG(7, 7)) }

// sizes are lengths that fill blocks of threads and that do not.
var sizes = []int{1, 31, 256, 257, 1000}

func TestElementwise(t *testing.T) {
	r, rng := newRig(t), testRand()
	for _, n := range sizes {
		a, b := normals(rng, n), normals(rng, n)
		grid := driver.D1(2)

		y := up(r, a)
		r.ok(r.Add(grid, kernels.AddArgs{Y: y, X: up(r, b), Scale: 1, N: int64(n)}))
		want := make([]float32, n)
		for i := range want {
			want[i] = a[i] + b[i]
		}
		assert.Equal(t, want, down[float32](r, y, n), "add %d", n)

		y = room[float32](r, n)
		r.ok(r.CopyWords(grid, kernels.CopyWordsArgs{Dst: y, Src: up(r, a), N: int64(n)}))
		assert.Equal(t, a, down[float32](r, y, n), "copy_words %d", n)
	}
}

func TestEmbedRows(t *testing.T) {
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t, 9)
			m := b.build(s)
			f := b.open(m)
			r := newRig(t)
			ids := []int32{0, int32(s.rows - 1), int32(s.rows / 2), int32(s.rows), -1} // the last two do not exist
			for _, as := range []form{formCoded, formPlane, formPacked} {
				w := r.loadOne(f, "w", as, model.UseRows)
				p := &pass{Launcher: r.Launcher, prog: &model.Program{}, n: 0, idsDev: up(r, ids)}
				y := room[float32](r, len(ids)*s.cols)
				p.buffers[model.BufX] = y
				r.ok((&embedAction{w: w, dst: model.BufX, scale: 1}).run(p, tokenRange{0, len(ids)}))
				got := down[float32](r, y, len(ids)*s.cols)
				for i, id := range ids {
					want := make([]float32, s.cols)
					if id >= 0 && int(id) < s.rows {
						want = m.values[id]
					}
					// Block scales are kept as float16, the rest is exact up to the order of float32 products.
					requireClose(t, want, got[i*s.cols:(i+1)*s.cols], 1e-7, "form %d, token %d", as, id)
				}
			}
		})
	}
}

func TestBlockScales(t *testing.T) {
	for _, name := range []string{"Q4_K", "Q6_K", "Q8_0", "Q3_K, column scales", "Q4_1"} {
		s := specs[name]
		b := newBuilder(t, 10)
		m := b.build(s)
		r := newRig(t)
		w := r.loadOne(b.open(m), "w", formPlane, model.UseProduct)
		c := m.coded
		blocks, stride := s.cols/s.scale.Block, int(w.desc.BlockStride)
		got := down[uint16](r, w.desc.BlockScale, (s.rows+3)/4*4*stride)
		for i := range s.rows * blocks {
			d := float16.Frombits(c.D[i*s.scale.Block/s.scale.Super]).Float32()
			sub := 1
			if c.SubScale != nil {
				sub = bitsAt(c.SubScale, i, s.scale.SubBits) + s.scale.SubBias
				if s.scale.SubBits == 8 {
					sub = int(int8(sub))
				}
			}
			scaled := d * float32(sub) / w.desc.BlockUnit
			require.LessOrEqual(t, math.Abs(float64(scaled)), 1.0, "%s: block %d", name, i)
			row, block := i/blocks, i%blocks
			at := (row/4*stride+block)*4 + row%4
			require.Equal(t, toHalf(scaled), float16.Frombits(got[at]).Float32(), "%s: block %d", name, i)
		}
	}
}
