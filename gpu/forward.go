package gpu

import (
	"context"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// step is a node of the program with its operands on the device.
type step struct {
	*model.Node
	where  string           // for errors
	weight *weight          // OpEmbed, OpMatMul
	vector driver.DevicePtr // normalization weight of OpRMSNorm, bias of OpMatMul (0 = none)
	keys   driver.DevicePtr // caches of OpAttention: float16 [n_ctx][width of BufK]
	values driver.DevicePtr
}

// pass executes the forward pass: activations, caches and the program's steps, all in place before the first token.
type pass struct {
	*launcher
	prog      *model.Program
	sms       int
	nCtx      int
	batch     int // most tokens at a time
	logitRows int // most rows of logits at a time
	n         int // tokens of the batch being run
	steps     []step

	buffers  [model.NumBuffers]driver.DevicePtr // float32 [batch][width]; logits: [logitRows][width]
	scaled   driver.DevicePtr                   // float32 [batch][cols]: inputs times column scales
	prepared driver.DevicePtr                   // [gemvBatch] vectors from x_prepare
	preparedStride,
	planeBytes int64
	plane driver.DevicePtr // decoded piece of a coded matrix
	ids   driver.DevicePtr // int32 [2][batch]: positions, tokens
	freqs driver.DevicePtr // float32 [rope_dim/2]

	// which input the prepared vectors stand for; valid until a step writes to that buffer
	ready struct {
		valid    bool
		buf      model.Buffer
		tok0, n  int
		geometry [3]int32 // cols, steps per tile, tiles
	}
}

// span is a range of the batch's tokens.
type span struct{ tok0, n int }

func newPass(l *launcher, lay *layout, f *format.Reader, prog *model.Program, work *arena, sms int) (*pass, error) {
	p := &pass{launcher: l, prog: prog, sms: sms, nCtx: lay.nCtx, batch: lay.batch, logitRows: lay.logitRows(prog)}
	s := &lay.fwd
	p.planeBytes, p.preparedStride = s.plane, s.preparedStride
	type block struct {
		dst  *driver.DevicePtr
		size int64
	}
	blocks := []block{{&p.scaled, s.scaled}, {&p.plane, s.plane}, {&p.ids, s.ids}, {&p.freqs, s.freqs},
		{&p.prepared, gemvBatch * s.preparedStride}}
	for i := range p.buffers {
		blocks = append(blocks, block{&p.buffers[i], s.buffers[i]})
	}
	if err := p.compile(lay); err != nil {
		return nil, err
	}
	for i := range p.steps {
		if st := &p.steps[i]; st.Op == model.OpAttention {
			blocks = append(blocks, block{&st.keys, lay.kvBytes}, block{&st.values, lay.kvBytes})
		}
	}
	for _, b := range blocks {
		if b.size == 0 {
			continue
		}
		var err error
		if *b.dst, err = work.take(b.size); err != nil {
			return nil, err
		}
	}
	freqs, err := rotationFreqs(f, prog)
	if err != nil || len(freqs) == 0 {
		return p, err
	}
	return p, l.dev.CopyHtoD(p.freqs, bytesOf(freqs))
}

// compile resolves the names of the program's nodes.
func (p *pass) compile(lay *layout) error {
	byName := make(map[string]*weight, len(lay.weights))
	for _, w := range lay.weights {
		byName[w.Name] = w
	}
	for i := range p.prog.Nodes {
		n := &p.prog.Nodes[i]
		st := step{Node: n, where: n.Weight}
		switch n.Op {
		case model.OpRMSNorm:
			st.vector = byName[n.Weight].vector
		case model.OpEmbed, model.OpMatMul:
			st.weight = byName[n.Weight]
			if n.Bias != "" {
				st.vector = byName[n.Bias].vector
			}
		default:
			st.where = fmt.Sprintf("layer %d, step %d", n.Layer, i)
		}
		p.steps = append(p.steps, st)
	}
	return nil
}

// rotationFreqs returns radians per position of each rotated pair of dimensions: base^(−2i/rope_dim), scaled.
func rotationFreqs(f *format.Reader, prog *model.Program) ([]float32, error) {
	k := &prog.Config
	n := k.RopeDim / 2
	divisors := make([]float32, n)
	for i := range divisors {
		divisors[i] = 1
	}
	if prog.RopeFreqs != "" {
		t, ok := f.Tensor(prog.RopeFreqs)
		if !ok || t.Raw == nil || t.Rows*t.Cols != n {
			return nil, fmt.Errorf("%s: tensor %s is missing or not a vector of %d", f.Path(), prog.RopeFreqs, n)
		}
		if err := f.Verify(t); err != nil {
			return nil, err
		}
		divisors = floats(t.Raw)
	}
	scale := 1.0
	if k.RopeScale > 0 {
		scale = float64(k.RopeScale)
	}
	freqs := make([]float32, n)
	for i := range freqs {
		freqs[i] = float32(math.Pow(float64(k.RopeBase), -2*float64(i)/float64(k.RopeDim)) / scale / float64(divisors[i]))
	}
	return freqs, nil
}

// run executes tokens at pos, pos+1, … in batches and leaves the logits of the last `rows` in logits.
func (p *pass) run(ctx context.Context, tokens []int32, pos, rows int, logits []float32) error {
	vocab := p.prog.Width(model.BufLogits)
	for start := 0; start < len(tokens); start += p.batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(p.batch, len(tokens)-start)
		left := len(tokens) - start - n      // tokens behind this batch
		wanted := max(0, min(n, rows-left))  // rows of this batch
		at := (rows - left - wanted) * vocab // where they go
		if wanted == 0 {
			at = 0
		}
		if err := p.runBatch(tokens[start:start+n], pos+start, wanted, logits[at:]); err != nil {
			return err
		}
	}
	return p.dev.Synchronize()
}

func (p *pass) runBatch(tokens []int32, pos, rows int, logits []float32) error {
	n := len(tokens)
	ids := make([]int32, n, 2*n)
	for i := range ids {
		ids[i] = int32(pos + i)
	}
	p.where, p.n = "token ids", n
	if err := p.dev.CopyHtoD(p.ids, bytesOf(append(ids, tokens...))); err != nil {
		return err
	}
	p.ready.valid = false
	for i := range p.steps {
		st := &p.steps[i]
		s := span{0, n}
		if st.Last {
			s = span{n - rows, rows}
		}
		p.where = st.where
		run := p.runStep
		if st.Dst == model.BufLogits {
			run = func(st *step, s span) error { return p.runLogits(st, s, logits) }
		}
		if err := run(st, s); err != nil {
			return err
		}
		if p.ready.buf == st.Dst {
			p.ready.valid = false
		}
	}
	return nil
}

// at returns where token tok0 of a buffer is.
func (p *pass) at(b model.Buffer, tok0 int) driver.DevicePtr {
	return p.buffers[b] + driver.DevicePtr(4*tok0*p.prog.Width(b))
}

// position returns where the position of token tok0 is; it is also that of the first token of a span from there on.
func (p *pass) position(tok0 int) driver.DevicePtr { return p.ids + driver.DevicePtr(4*tok0) }

func (p *pass) tokenIDs(tok0 int) driver.DevicePtr {
	return p.ids + driver.DevicePtr(4*(p.n+tok0))
}

// runStep executes a step for the tokens of s.
func (p *pass) runStep(st *step, s span) error {
	k := &p.prog.Config
	if st.Op == model.OpAttention {
		return p.attend(st, s)
	}
	if s.n == 0 {
		return nil
	}
	width := p.prog.Width(st.Dst)
	dst, a, b := p.at(st.Dst, s.tok0), p.at(st.A, s.tok0), p.at(st.B, s.tok0)
	values := int64(s.n) * int64(width)
	switch st.Op {
	case model.OpEmbed:
		return p.embed(st.weight, s, dst)
	case model.OpRMSNorm:
		return p.rmsnorm(driver.D1(s.n), 0, a, st.vector, int32(width), k.NormEps, dst)
	case model.OpMatMul:
		return p.multiply(st, s, dst)
	case model.OpRoPE:
		if k.RopeDim == 0 {
			return nil
		}
		neox := int32(0)
		if p.prog.RopeNeox {
			neox = 1
		}
		heads := width / k.HeadDim
		return p.rope(driver.D2(heads, s.n), 0, dst, p.position(s.tok0), p.freqs, int32(heads), int32(k.HeadDim), int32(k.RopeDim), neox)
	case model.OpSwiGLU:
		if st.Dst != st.A {
			if err := p.copyWords(p.elements(values), 0, dst, a, values); err != nil {
				return err
			}
		}
		return p.swiglu(p.elements(values), 0, dst, b, values)
	case model.OpAdd:
		return p.add(p.elements(values), 0, dst, a, values)
	}
	return fmt.Errorf("%s: unknown operation %d", st.where, st.Op)
}

// elements returns the grid of an element-wise kernel over n values.
func (p *pass) elements(n int64) driver.Dim {
	const threads = 256
	return driver.D1(int(min((n+threads-1)/threads, int64(blocksPerSM*p.sms))))
}

func (p *pass) embed(w *weight, s span, dst driver.DevicePtr) error {
	if w.form == formCoded {
		return p.embedRowsCoded(driver.D2(w.Coded.Tiles(), s.n), 0, w.descDev, p.tokenIDs(s.tok0), dst)
	}
	const threads = 256
	return p.embedRows(driver.D2(ceilDiv(w.Cols, threads), s.n), 0, w.descDev, p.tokenIDs(s.tok0), dst)
}

// attend stores the keys and values of the whole batch and attends from the tokens of s.
func (p *pass) attend(st *step, s span) error {
	k := &p.prog.Config
	const threads = 256
	width := p.prog.Width(st.B)
	if err := p.kvStore(driver.D2(ceilDiv(width, threads), p.n), 0, p.at(st.B, 0), p.at(st.C, 0), p.position(0), int32(width),
		int32(p.nCtx), st.keys, st.values); err != nil || s.n == 0 {
		return err
	}
	scale := float32(1 / math.Sqrt(float64(k.HeadDim)))
	return p.attention(driver.D2(k.NHeads, s.n), 0, p.at(st.A, s.tok0), st.keys, st.values, p.position(s.tok0),
		int32(k.NHeads), int32(k.NKVHeads), int32(k.HeadDim), scale, p.at(st.Dst, s.tok0))
}

// runLogits computes the logits of the tokens of s, a few rows at a time, and copies them to the host.
func (p *pass) runLogits(st *step, s span, logits []float32) error {
	vocab := p.prog.Width(model.BufLogits)
	for done := 0; done < s.n; {
		part := span{s.tok0 + done, min(p.logitRows, s.n-done)}
		if err := p.multiply(st, part, p.buffers[model.BufLogits]); err != nil {
			return err
		}
		if err := p.dev.CopyDtoH(bytesOf(logits[done*vocab:(done+part.n)*vocab]), p.buffers[model.BufLogits]); err != nil {
			return fmt.Errorf("%s: %w", st.where, err)
		}
		done += part.n
	}
	return nil
}
