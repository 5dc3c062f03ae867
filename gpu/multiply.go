package gpu

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// productOperands are a product of the program with its matrix and bias on the device.
type productOperands struct {
	*model.Node
	weight *weight
	bias   driver.DevicePtr // 0 = none
}

// productAction multiplies the same input by one or more matrices: up to gemvBatch tokens in one launch, more matrix by matrix.
type productAction struct {
	header
	products []*productOperands
	kernel   kernels.ID       // of one vector
	tasks    driver.DevicePtr // kernels.GemvTask of each
	blocks   int
	input    driver.DevicePtr // of token 0
	residual bool             // the only product is added to BufX
	after    *prepareAction   // merged into this launch; nil = none
}

func (a *productAction) run(p *pass, s tokenRange) error {
	x := a.input + driver.DevicePtr(4*s.first*a.products[0].weight.Cols)
	if s.n <= gemvBatch {
		return a.gemv(p, s, x)
	}
	for _, o := range a.products {
		p.Label = o.Weight
		dst := p.at(o.Dst, s.first)
		if err := p.multiplyBatch(o, s.n, x, p.prepared, dst); err != nil {
			return err
		}
		if !a.residual {
			continue
		}
		if err := p.addTo(p.at(model.BufX, s.first), dst, 1, p.values(o.Dst, s)); err != nil {
			return err
		}
	}
	return nil
}

// shared returns the bytes of dynamic shared memory that a block needs for t vectors.
func (a *productAction) shared(t int) (bytes int) {
	for _, o := range a.products {
		bytes = max(bytes, o.weight.product.gemvShared(t))
	}
	return bytes
}

// gemvLaunch multiplies up to gemvBatch tokens, each block as many as there is a kernel for and shared memory allows.
func (a *productAction) gemvLaunch(n int) launch {
	return gemvLaunch(a.kernel, a.blocks, n, a.shared)
}

// gemv multiplies up to gemvBatch tokens, whose results go to where the tasks say.
func (a *productAction) gemv(p *pass, s tokenRange, x driver.DevicePtr) error {
	first := s.first
	if a.products[0].Dst == model.BufLogits { // whose first row is the first wanted one
		first = 0
	}
	l := a.gemvLaunch(s.n)
	return p.Gemv(l.kernel, l.grid, l.shared, kernels.GemvArgs{Tasks: a.tasks, X: x, Side: p.side, FirstToken: int32(first),
		NTokens: int32(s.n), After: a.after.after(s.n)})
}

// logitsAction multiplies by the vocabulary's matrix, a few rows at a time, and copies the logits to the host.
type logitsAction struct {
	productAction
}

// ranges divides s into the tokens whose logits are computed at a time by gemm.
func (a *logitsAction) ranges(p *pass, s tokenRange) (rs []tokenRange) {
	for done := 0; done < s.n; {
		n := min(p.logitRows, s.n-done)
		rs = append(rs, tokenRange{s.first + done, n})
		done += n
	}
	return rs
}

func (a *logitsAction) run(p *pass, s tokenRange) error {
	if s.n <= gemvBatch {
		return a.productAction.run(p, s)
	}
	o, vocab := a.products[0], p.prog.Width(model.BufLogits)
	for _, r := range a.ranges(p, s) {
		done := r.first - s.first
		x := a.input + driver.DevicePtr(4*r.first*o.weight.Cols)
		xp := p.prepared + driver.DevicePtr(done)*driver.DevicePtr(p.preparedStride)
		if err := p.multiplyBatch(o, r.n, x, xp, p.buffers[model.BufLogits]); err != nil {
			return err
		}
		if err := p.fetchLogits(p.logits[done*vocab : (done+r.n)*vocab]); err != nil {
			return err
		}
	}
	return nil
}

// fetchLogits copies the logits of the last product to the host, where they are scaled and bounded.
func (p *pass) fetchLogits(dst []float32) error {
	if err := p.Dev.CopyDtoH(bytesOf(dst), p.buffers[model.BufLogits]); err != nil {
		return fmt.Errorf("logits: %w", err)
	}
	if n := &p.prog.Nodes[len(p.prog.Nodes)-1]; n.Dst == model.BufLogits && (n.Scale != 0 || n.SoftCap != 0) {
		finishLogits(n, dst)
	}
	return nil
}

// finishLogits scales and bounds logits.
func finishLogits(n *model.Node, x []float32) {
	f := factor(n)
	for i, v := range x {
		if v *= f; n.SoftCap > 0 {
			v = n.SoftCap * float32(math.Tanh(float64(v/n.SoftCap)))
		}
		x[i] = v
	}
}

// pieces divides the rows of w into what is decoded, or unpacked, to a plane at a time; nil: w is multiplied where it lies.
func (p *pass) pieces(w *weight) (rs []rowRange) {
	unit := quadRows // of rows that are decoded together
	switch w.form {
	case formCoded:
		unit = w.Coded.Coding.RowsPerGroup
	case formPacked:
	default:
		return nil
	}
	rows := max(1, int(p.planeBytes/w.planeBytes(unit))) * unit
	for first := 0; first < w.Rows; first += rows {
		rs = append(rs, rowRange{first, min(rows, w.Rows-first)})
	}
	return rs
}

// multiplyBatch multiplies n tokens, whose inputs are at x and, prepared, at xp. Each coded or packed matrix is decoded once for
// all of them, in pieces that fit the scratch plane.
func (p *pass) multiplyBatch(o *productOperands, n int, x, xp, dst driver.DevicePtr) error {
	w := o.weight
	gemm := func(data driver.DevicePtr, r rowRange) error {
		l := w.product.gemmLaunch(r.n, n)
		return p.Gemm(l.kernel, l.grid, l.shared, kernels.GemmArgs{W: w.descDev, Data: data, FirstRow: int32(r.first),
			NRows: int32(r.n), X: x, Xp: xp,
			XpStride: p.preparedStride, NTokens: int32(n), Bias: o.bias, Y: dst})
	}
	pieces := p.pieces(w)
	if pieces == nil {
		return gemm(0, rowRange{0, w.Rows})
	}
	for _, r := range pieces {
		if err := p.ring.overlap(p.Launcher, func(plane driver.DevicePtr) error { return p.toPlane(w, r, plane) },
			func(plane driver.DevicePtr) error { return gemm(plane, r) }); err != nil {
			return err
		}
	}
	return nil
}

// toPlane decodes, or unpacks, some rows of w.
func (p *pass) toPlane(w *weight, r rowRange, plane driver.DevicePtr) error {
	if w.form == formPacked {
		return unpack(p.Launcher, w, r, p.sms, plane)
	}
	perGroup := w.Coded.Coding.RowsPerGroup
	return decode(p.Launcher, w, r.first/perGroup, ceilDiv(r.n, perGroup), p.sms, plane)
}
