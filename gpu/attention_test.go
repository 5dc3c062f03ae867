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

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// attentionCase is a layer's attention over random queries, keys and values.
type attentionCase struct {
	nHeads, nKV, dim, rope, neox int
	past, tokens                 int
	splits                       int
	q8                           bool
	tiles                        bool    // on tensor cores
	window                       int     // 0 = all positions
	softCap, gain, temperature   float32 // 0 = none; temperature grows every 16 positions
}

const temperatureCtx = 16

func (c attentionCase) String() string {
	return fmt.Sprintf("%+v", plain(c))
}

// plain has no String of its own.
type plain attentionCase

func (c attentionCase) freqs() []float32 {
	f := make([]float32, c.rope/2)
	for i := range f {
		f[i] = float32(math.Pow(10000, -2*float64(i)/float64(c.rope)))
	}
	return f
}

// rotate is the rotation of a head, in float64.
func (c attentionCase) rotate(x []float32, pos int) {
	for k, f := range c.freqs() {
		a, b := 2*k, 2*k+1
		if c.neox == 1 {
			a, b = k, k+c.rope/2
		}
		sin, cos := math.Sincos(float64(float32(pos) * f))
		u, v := float64(x[a]), float64(x[b])
		gain := 1.0
		if c.gain != 0 {
			gain = float64(c.gain)
		}
		x[a], x[b] = float32(gain*(u*cos-v*sin)), float32(gain*(u*sin+v*cos))
	}
}

// cached rounds a head as the cache does.
func (c attentionCase) cached(x []float32) {
	if !c.q8 {
		for i := range x {
			x[i] = toHalf(x[i])
		}
		return
	}
	for at := 0; at < len(x); at += kvBlock {
		most := float32(0)
		for _, v := range x[at : at+kvBlock] {
			most = max(most, float32(math.Abs(float64(v))))
		}
		scale := toHalf(most / 127)
		for i := at; i < at+kvBlock; i++ {
			if scale > 0 {
				x[i] = scale * float32(math.RoundToEven(float64(x[i]/scale)))
			}
		}
	}
}

// want is attention in float64 over all positions.
func (c attentionCase) want(q, k, v []float32) []float32 {
	q, k, v = slices.Clone(q), slices.Clone(k), slices.Clone(v)
	for at := 0; at < len(k); at += c.dim {
		c.rotate(k[at:at+c.dim], at/(c.nKV*c.dim))
		c.cached(k[at : at+c.dim])
		c.cached(v[at : at+c.dim])
	}
	out := make([]float32, len(q))
	for at := 0; at < len(q); at += c.dim {
		token, head := at/(c.nHeads*c.dim), at/c.dim%c.nHeads
		pos, kv := c.past+token, head/(c.nHeads/c.nKV)
		c.rotate(q[at:at+c.dim], pos)
		scores, sum, first := make([]float64, pos+1), 0.0, 0
		if c.window > 0 {
			first = max(0, pos-c.window+1)
		}
		warmth := 1 + float64(c.temperature)*math.Log(float64(1+pos/temperatureCtx))
		for p := first; p <= pos; p++ {
			for i := range c.dim {
				scores[p] += float64(q[at+i]) * float64(k[(p*c.nKV+kv)*c.dim+i])
			}
			scores[p] *= float64(c.scale()) * warmth
			if limit := float64(c.softCap); limit > 0 {
				scores[p] = limit * math.Tanh(scores[p]/limit)
			}
			scores[p] = math.Exp(scores[p])
			sum += scores[p]
		}
		for i := range c.dim {
			acc := 0.0
			for p, s := range scores {
				acc += s / sum * float64(v[(p*c.nKV+kv)*c.dim+i])
			}
			out[at+i] = float32(acc)
		}
	}
	return out
}

func (c attentionCase) scale() float32 { return float32(1 / math.Sqrt(float64(c.dim))) }

// pass returns a pass whose only action is this attention, with everything in place for n tokens.
func (c attentionCase) pass(r *rig, n int) *pass {
	prog := &model.Program{Config: model.Config{NHeads: c.nHeads, NKVHeads: c.nKV, HeadDim: c.dim, RopeDim: c.rope}}
	prog.Ropes = []model.Rope{{Dim: c.rope, Neox: c.neox == 1, Gain: c.gain}}
	prog.Nodes = []model.Node{{Op: model.OpRoPE, Dst: model.BufQ}, {Op: model.OpRoPE, Dst: model.BufK},
		{Op: model.OpAttention, Dst: model.BufAttn, A: model.BufQ, B: model.BufK, C: model.BufV, Scale: c.scale(), Window: c.window,
			SoftCap: c.softCap, Temperature: c.temperature, TemperatureCtx: temperatureCtx}}
	p := &pass{Launcher: r.Launcher, prog: prog, sms: 2, splits: c.splits, tiles: c.tiles, kvQ8: c.q8, batch: n}
	p.pages = len(c.table()) + 2
	p.freqs, p.idsDev = up(r, c.freqs()), room[int32](r, 3*n+p.pages)
	width := c.nKV * c.dim
	cacheBytes := 2 * p.pages * engine.PageTokens * width
	caches := []cachePair{{room[uint8](r, cacheBytes), room[uint8](r, cacheBytes)}}
	for b, w := range map[model.Buffer]int{model.BufQ: c.nHeads * c.dim, model.BufK: width, model.BufV: width,
		model.BufAttn: c.nHeads * c.dim} {
		p.buffers[b] = room[float32](r, n*w)
	}
	tasks := room[uint8](r, int(allocationBytes(counterBytes(&prog.Config))+taskBytes(prog)))
	s, err := p.schedule(nil, tasks, room[float32](r, gemvBatch*c.nHeads*c.splits*(c.dim+2)), caches)
	r.ok(err)
	r.ok(s.upload())
	return p
}

// table is a page table, in no order.
func (c attentionCase) table() []int32 {
	n := engine.PagesFor(c.past + c.tokens)
	pages := make([]int32, n)
	for i, p := range rand.New(rand.NewPCG(1, uint64(n))).Perm(n) {
		pages[i] = int32(p) + 1
	}
	return pages
}

// attend runs tokens from position `from` on and returns their outputs.
func (c attentionCase) attend(r *rig, p *pass, from int, q, k, v []float32) []float32 {
	n := len(q) / (c.nHeads * c.dim)
	r.ok(p.place(engine.Batch{Tokens: make([]int32, n), Runs: []engine.Run{{Pos: from, N: n, Pages: c.table()}}}))
	for b, x := range map[model.Buffer][]float32{model.BufQ: q, model.BufK: k, model.BufV: v} {
		r.ok(p.Dev.CopyHtoD(p.buffers[b], bytesOf(x)))
	}
	r.ok(p.runActions(tokenRange{0, p.n}))
	return down[float32](r, p.buffers[model.BufAttn], len(q))
}

func (c attentionCase) check(t *testing.T, r *rig, rng *rand.Rand) {
	all := c.past + c.tokens
	q, k, v := normals(rng, all*c.nHeads*c.dim), normals(rng, all*c.nKV*c.dim), normals(rng, all*c.nKV*c.dim)
	p := c.pass(r, all)
	width, heads := c.nKV*c.dim, c.nHeads*c.dim
	if c.past > 0 {
		c.attend(r, p, 0, q[:c.past*heads], k[:c.past*width], v[:c.past*width])
	}
	got := c.attend(r, p, c.past, q[c.past*heads:], k[c.past*width:], v[c.past*width:])
	limit := 1e-10
	if c.tiles { // queries and weights are rounded to halves
		limit = 1e-6
	}
	if c.q8 { // a value between two codes may be rounded to either
		limit = 1e-6
	}
	requireClose(t, c.want(q[c.past*heads:], k, v), got, limit, c.String())
	// The same once more: counters start again from zero.
	assert.Equal(t, got, c.attend(r, p, c.past, q[c.past*heads:], k[c.past*width:], v[c.past*width:]), c.String())
}

// One token is rotated, stored and attended in one launch, a few share blocks by heads, many by tokens.
func TestAttention(t *testing.T) {
	r, rng := newRig(t), testRand()
	for _, c := range []attentionCase{
		{nHeads: 1, nKV: 1, dim: 8, rope: 8, past: 0, tokens: 1, splits: 1},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 0, tokens: 5, splits: 1},
		{nHeads: 9, nKV: 3, dim: 64, rope: 64, neox: 1, past: 37, tokens: 1, splits: 1},
		{nHeads: 9, nKV: 3, dim: 64, rope: 32, past: 37, tokens: 3, splits: 2},
		{nHeads: 6, nKV: 1, dim: 128, rope: 128, neox: 1, past: 300, tokens: 1, splits: 4},
		{nHeads: 6, nKV: 1, dim: 128, rope: 128, past: 300, tokens: 2, splits: 3},
		{nHeads: 2, nKV: 2, dim: 256, rope: 256, past: 31, tokens: 1, splits: 1},
		{nHeads: 5, nKV: 1, dim: 64, rope: 64, past: 32, tokens: 1, splits: 8},
		{nHeads: 3, nKV: 3, dim: 80, rope: 64, past: 64, tokens: 33, splits: 2},
		{nHeads: 7, nKV: 1, dim: 64, rope: 64, past: 5, tokens: 11, splits: 1},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 70, tokens: 1, splits: 3, q8: true},
		{nHeads: 4, nKV: 2, dim: 96, rope: 96, past: 33, tokens: 12, splits: 1, q8: true},
		{nHeads: 2, nKV: 1, dim: 128, rope: 128, neox: 1, past: 40, tokens: 4, splits: 2, q8: true},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 70, tokens: 1, splits: 2, window: 33},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 10, tokens: 40, splits: 1, window: 7},
		{nHeads: 4, nKV: 1, dim: 64, rope: 64, past: 100, tokens: 3, splits: 3, window: 70, q8: true},
		{nHeads: 2, nKV: 1, dim: 256, rope: 256, neox: 1, past: 20, tokens: 2, splits: 1, softCap: 3},
		{nHeads: 3, nKV: 3, dim: 64, rope: 32, past: 40, tokens: 9, splits: 1, gain: 1.2, temperature: 0.1, softCap: 50, window: 30},
	} {
		c.check(t, r, rng)
		r.ok(r.arena.reset())
	}
}

// Many tokens on tensor cores: tiles of queries and positions that are not full, rows of heads that are not, pages anywhere.
func TestAttentionInTiles(t *testing.T) {
	r, rng := newRig(t), testRand()
	for _, c := range []attentionCase{
		{nHeads: 2, nKV: 1, dim: 64, rope: 64, past: 0, tokens: 70, splits: 1},
		{nHeads: 2, nKV: 2, dim: 128, rope: 128, neox: 1, past: 40, tokens: 33, splits: 1},
		{nHeads: 3, nKV: 1, dim: 80, rope: 64, past: 70, tokens: 12, splits: 1, window: 50},
		{nHeads: 1, nKV: 1, dim: 8, rope: 8, past: 150, tokens: 65, splits: 1, window: 3},
		{nHeads: 2, nKV: 1, dim: 96, rope: 96, past: 33, tokens: 40, splits: 1, q8: true, softCap: 3, gain: 1.2, temperature: 0.1},
		{nHeads: 2, nKV: 2, dim: 64, rope: 32, past: 20, tokens: 50, splits: 1, gain: 30, softCap: 50, window: 30},
	} {
		c.tiles = true
		before := r.Launched
		c.check(t, r, rng)
		launches := int64(4) // rotation and attention, twice
		if c.past > 0 {
			launches += 2
		}
		assert.Equal(t, launches, r.Launched-before, "attention takes one launch")
		r.ok(r.arena.reset())
	}
}

// Positions after the end of the cache are dropped, not written somewhere.
func TestRopeStoreDropsWhatDoesNotFit(t *testing.T) {
	r := newRig(t)
	const dim, ctx = 40, 4
	k := make([]float32, 3*dim)
	for i := range k {
		k[i] = float32(i)
	}
	kc, vc := up(r, make([]uint16, ctx*dim)), up(r, make([]uint16, ctx*dim))
	b, err := structBytes(&kernels.AttentionTask{Q: up(r, k), K: up(r, k), V: up(r, k), KCache: kc, VCache: vc, NHeads: 1,
		NKvHeads: 1, HeadDim: dim, Rows: ctx, Pos: up(r, []int32{2, 3, 4}), Table: up(r, []int32{0, 0, 0}), Pages: up(r, []int32{0})})
	r.ok(err)
	r.ok(r.RopeStore(kernels.RopeStoreF16ID, driver.D2(3, 3), 0, kernels.RopeStoreArgs{A: up(r, b)}))
	got := down[uint16](r, kc, ctx*dim)
	for i := range got {
		want := float32(0)
		if i >= 2*dim {
			want = k[i-2*dim]
		}
		require.Equal(t, want, float16.Frombits(got[i]).Float32(), i)
	}
}
