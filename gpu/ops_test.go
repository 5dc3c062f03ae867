package gpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
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
		r.ok(r.add(grid, 0, y, up(r, b), int64(n)))
		want := make([]float32, n)
		for i := range want {
			want[i] = a[i] + b[i]
		}
		assert.Equal(t, want, down[float32](r, y, n), "add %d", n)

		y = up(r, a)
		r.ok(r.swiglu(grid, 0, y, up(r, b), int64(n)))
		for i := range want {
			want[i] = float32(float64(a[i]) / (1 + math.Exp(-float64(a[i]))) * float64(b[i]))
		}
		requireClose(t, want, down[float32](r, y, n), 1e-12, "swiglu %d", n)

		y = up(r, a)
		width := min(n, 31)
		r.ok(r.addBias(grid, 0, y, up(r, b), int32(width), int64(n)))
		for i := range want {
			want[i] = a[i] + b[i%width]
		}
		assert.Equal(t, want, down[float32](r, y, n), "add_bias %d", n)

		y = room[float32](r, n)
		r.ok(r.copyWords(grid, 0, y, up(r, a), int64(n)))
		assert.Equal(t, a, down[float32](r, y, n), "copy_words %d", n)
	}
}

func TestMulCols(t *testing.T) {
	r, rng := newRig(t), testRand()
	const cols, tokens = 300, 3
	x, s := normals(rng, cols*tokens), normals(rng, cols)
	y := room[float32](r, cols*tokens)
	r.ok(r.mulCols(driver.D2(2, tokens), 0, up(r, x), up(r, s), cols, y))
	for i := range x {
		x[i] *= s[i%cols]
	}
	assert.Equal(t, x, down[float32](r, y, len(x)))
}

func TestRMSNorm(t *testing.T) {
	r, rng := newRig(t), testRand()
	for _, width := range sizes {
		const tokens, eps = 3, 1e-5
		x, weight := normals(rng, width*tokens), normals(rng, width)
		y := room[float32](r, width*tokens)
		r.ok(r.rmsnorm(driver.D1(tokens), 0, up(r, x), up(r, weight), int32(width), eps, y))
		want := make([]float32, len(x))
		for tok := range tokens {
			sum := 0.0
			for _, v := range x[tok*width : (tok+1)*width] {
				sum += float64(v) * float64(v)
			}
			for i := range width {
				want[tok*width+i] = float32(float64(x[tok*width+i]) / math.Sqrt(sum/float64(width)+eps) * float64(weight[i]))
			}
		}
		requireClose(t, want, down[float32](r, y, len(x)), 1e-12, "width %d", width)
	}
}

func TestRoPE(t *testing.T) {
	r, rng := newRig(t), testRand()
	const heads, tokens, start = 3, 4, 117
	pos := []int32{start, -1} // only the first position is read
	for _, dims := range [][2]int{{64, 64}, {96, 64}, {256, 256}, {16, 8}} {
		head, rot := dims[0], dims[1]
		freqs := make([]float32, rot/2)
		for i := range freqs {
			freqs[i] = float32(math.Pow(10000, -2*float64(i)/float64(rot)))
		}
		for neox := range 2 {
			x := normals(rng, heads*tokens*head)
			y := up(r, x)
			r.ok(r.rope(driver.D2(heads, tokens), 0, y, up(r, pos), up(r, freqs), heads, int32(head), int32(rot), int32(neox)))
			for i := range heads * tokens {
				token := i / heads
				for k, f := range freqs {
					a, b := 2*k, 2*k+1
					if neox == 1 {
						a, b = k, k+rot/2
					}
					sin, cos := math.Sincos(float64(float32(start+token) * f))
					u, v := float64(x[i*head+a]), float64(x[i*head+b])
					x[i*head+a], x[i*head+b] = float32(u*cos-v*sin), float32(u*sin+v*cos)
				}
			}
			requireClose(t, x, down[float32](r, y, len(x)), 1e-10, "head %d, %d rotated, neox %d", head, rot, neox)
		}
	}
}

// attentionCase fills a cache through kv_store and attends.
func attentionCase(t *testing.T, r *rig, rng *rand.Rand, nHeads, nKV, dim, past, tokens int) {
	width, ctx := nKV*dim, past+tokens+3
	kCache, vCache := room[uint16](r, ctx*width), room[uint16](r, ctx*width)
	k, v := normals(rng, (past+tokens)*width), normals(rng, (past+tokens)*width)
	q := normals(rng, tokens*nHeads*dim)
	store := func(from, n int) {
		r.ok(r.kvStore(driver.D2(ceilDiv(width, 256), n), 0, up(r, k[from*width:(from+n)*width]), up(r, v[from*width:(from+n)*width]),
			up(r, []int32{int32(from)}), int32(width), int32(ctx), kCache, vCache))
	}
	if past > 0 {
		store(0, past)
	}
	store(past, tokens)
	y := room[float32](r, len(q))
	scale := float32(1 / math.Sqrt(float64(dim)))
	r.ok(r.attention(driver.D2(nHeads, tokens), 0, up(r, q), kCache, vCache, up(r, []int32{int32(past)}), int32(nHeads), int32(nKV), int32(dim), scale, y))

	want := make([]float32, len(q))
	for tok := range tokens {
		for h := range nHeads {
			at, kv := (tok*nHeads+h)*dim, h/(nHeads/nKV)*dim
			scores, sum := make([]float64, past+tok+1), 0.0
			for p := range scores {
				for i := range dim {
					scores[p] += float64(q[at+i]) * float64(toHalf(k[p*width+kv+i]))
				}
				scores[p] = math.Exp(scores[p] * float64(scale))
				sum += scores[p]
			}
			for i := range dim {
				acc := 0.0
				for p, s := range scores {
					acc += s / sum * float64(toHalf(v[p*width+kv+i]))
				}
				want[at+i] = float32(acc)
			}
		}
	}
	requireClose(t, want, down[float32](r, y, len(q)), 1e-10, "%d/%d heads of %d, %d past, %d tokens", nHeads, nKV, dim, past, tokens)
}

func TestAttention(t *testing.T) {
	r, rng := newRig(t), testRand()
	attentionCase(t, r, rng, 1, 1, 8, 0, 1)
	attentionCase(t, r, rng, 4, 2, 64, 0, 5)
	attentionCase(t, r, rng, 9, 3, 64, 37, 3)
	attentionCase(t, r, rng, 6, 1, 128, 300, 2)
	attentionCase(t, r, rng, 2, 2, 256, 31, 1)
	attentionCase(t, r, rng, 3, 3, 80, 64, 33)
}

// Positions behind the end of the cache are dropped, not written somewhere.
func TestKVStoreDropsWhatDoesNotFit(t *testing.T) {
	r := newRig(t)
	const width, ctx = 40, 4
	k := make([]float32, 3*width)
	for i := range k {
		k[i] = float32(i)
	}
	kc, vc := up(r, make([]uint16, ctx*width)), up(r, make([]uint16, ctx*width))
	r.ok(r.kvStore(driver.D2(1, 3), 0, up(r, k), up(r, k), up(r, []int32{2}), width, ctx, kc, vc))
	got := down[uint16](r, kc, ctx*width)
	for i := range got {
		want := float32(0)
		if i >= 2*width {
			want = k[i-2*width]
		}
		require.Equal(t, want, float16.Frombits(got[i]).Float32(), i)
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
			for _, as := range []form{formCoded, formPlane} {
				w := r.loadOne(f, "w", as, useEmbed)
				p := &pass{launcher: r.launcher, n: 0, ids: up(r, ids)}
				y := room[float32](r, len(ids)*s.cols)
				r.ok(p.embed(w, span{0, len(ids)}, y))
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
		w := r.loadOne(b.open(m), "w", formPlane, useProduct)
		c, perValue := m.coded, 1
		if c.DMin != nil {
			perValue = 2
		}
		blocks := s.cols / s.scale.Block
		got := down[uint16](r, w.desc.BlockScale, s.rows*blocks*perValue)
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
			require.Equal(t, toHalf(scaled), float16.Frombits(got[perValue*i]).Float32(), "%s: block %d", name, i)
		}
	}
}

func TestTopK(t *testing.T) {
	r, rng := newRig(t), testRand()
	const rows, n = 2, 1000
	x := normals(rng, rows*n)
	x[17], x[400], x[999] = 50, 50, float32(math.NaN())
	for _, k := range []int{1, 7} {
		values, index := room[float32](r, rows*k), room[int32](r, rows*k)
		r.ok(r.topk(driver.D1(rows), 0, up(r, x), n, int32(k), values, index))
		gotV, gotI := down[float32](r, values, rows*k), down[int32](r, index, rows*k)
		for row := range rows {
			v := x[row*n : (row+1)*n]
			var order []int32
			for i := range v {
				if v[i] == v[i] {
					order = append(order, int32(i))
				}
			}
			slices.SortStableFunc(order, func(a, b int32) int {
				if v[a] > v[b] {
					return -1
				} else if v[a] < v[b] {
					return 1
				}
				return 0
			})
			assert.Equal(t, order[:k], gotI[row*k:(row+1)*k], "row %d", row)
			for i, id := range order[:k] {
				assert.Equal(t, v[id], gotV[row*k+i])
			}
		}
	}
}

// The prepared vector represents x up to the rounding of a half whose unit is chosen for the largest value.
func TestXPrepare(t *testing.T) {
	r, rng := newRig(t), testRand()
	for _, cols := range []int{1, 64, 577, 2112} {
		for _, magnitude := range []float64{0, 1e-30, 1, 1e6} {
			const vectors = 2
			c := &format.Coded{Rows: 1, Cols: cols}
			x := normals(rng, vectors*cols)
			for i := range x {
				x[i] *= float32(magnitude)
			}
			stride := blockSpan(preparedBytes(c))
			first := room[uint8](r, int(vectors*stride))
			r.ok(r.xPrepare(driver.D1(vectors), 0, up(r, x), int32(cols), int32(c.Steps()), int32(c.StepsPerTile()), int32(c.Tiles()), stride, first))
			for v := range vectors {
				msg := fmt.Sprintf("%d columns, magnitude %g, vector %d", cols, magnitude, v)
				checkPrepared(r, first+driver.DevicePtr(stride)*driver.DevicePtr(v), x[v*cols:(v+1)*cols], c.Steps(), 1e-4*magnitude*float64(cols)+1e-37, msg)
			}
		}
	}
}

// checkPrepared compares a prepared vector with x; sums may differ by sumDelta.
func checkPrepared(r *rig, xp driver.DevicePtr, x []float32, steps int, sumDelta float64, msg string) {
	unit := down[float32](r, xp, 2)
	halves := down[uint16](r, xp+64, 64*steps)
	got, sum := make([]float32, len(x)), 0.0
	for i, h := range halves {
		v := float16.Frombits(h).Float32()
		require.Less(r.t, math.Abs(float64(v)), 4.01)
		if i >= len(x) {
			require.Zero(r.t, v, "padding")
			continue
		}
		got[i] = unit[0] * v
		sum += float64(got[i])
	}
	requireClose(r.t, x, got, 1e-6, msg)
	assert.InDelta(r.t, sum, float64(unit[1]), sumDelta, msg)
}
