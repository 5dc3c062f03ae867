package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// deltaKeys is the most key dimensions of a head of the gated delta rule, deltaColumns the columns of a block (DELTA_KEYS and
// DELTA_COLUMNS of cuda/delta_rule.cu).
const (
	deltaKeys    = 128
	deltaColumns = 32
)

// deltaAction is a gated delta rule.
type deltaAction struct {
	header
	node         *model.Node
	decays, bias driver.DevicePtr
	state        driver.DevicePtr // the node's part of the first place
}

func (s *scheduler) delta(h header, n *model.Node) {
	s.add(&deltaAction{header: h, node: n, decays: s.byName[n.Weight].vector, bias: s.byName[n.Bias].vector, state: s.state(n)})
}

func (a *deltaAction) launch(p *pass) launch {
	k := &p.prog.Config
	return launch{kernel: kernels.DeltaRuleID, grid: driver.D2(ceilDiv(k.DeltaValueDim, deltaColumns), k.DeltaValueHeads)}
}

func (a *deltaAction) run(p *pass, s tokenRange) error {
	st, k, n := &p.states, &p.prog.Config, a.node
	return p.DeltaRule(a.launch(p).grid, kernels.DeltaRuleArgs{X: p.at(n.A, 0), Alpha: p.at(n.B, 0), Beta: p.at(n.C, 0),
		Y: p.at(n.Dst, 0), Decays: a.decays, Biases: a.bias, States: a.state, From: st.moves,
		To: st.moves + driver.DevicePtr(4*p.batch), Tokens: int32(s.n), KeyHeads: int32(k.DeltaKeyHeads),
		Keys: int32(k.DeltaKeyDim), Values: int32(k.DeltaValueDim), Place: int64(st.place)})
}

// cost: every token multiplies the matrix of each head by a key and a query and changes it; the matrix is read and written once
// per run. Tokens are taken one after the other.
func (a *deltaAction) cost(p *pass, s tokenRange) predict.Work {
	const products, bytes = 3, 8
	matrix := float64(p.prog.StateFloats(a.node))
	w := a.launch(p).work(predict.WorkItem{Products: products * matrix * float64(s.n), Bytes: bytes * matrix * float64(len(p.runs))})
	w.Rounds = float64(s.n)
	return w
}

// checkDelta returns an error for a delta rule that the kernel does not take.
func checkDelta(p *model.Program, n *model.Node) error {
	k := &p.Config
	if k.DeltaKeyDim < 1 || k.DeltaKeyDim > deltaKeys || k.DeltaKeyHeads < 1 || k.DeltaValueHeads%k.DeltaKeyHeads != 0 ||
		p.Width(n.Dst) < 1 {
		return fmt.Errorf("a delta rule of %d value heads, %d key heads and %d key dimensions; the GPU takes up to %d of these "+
			"(use --device cpu)", k.DeltaValueHeads, k.DeltaKeyHeads, k.DeltaKeyDim, deltaKeys)
	}
	return nil
}

// gateHeadsAction multiplies what heads attended to by the sigmoids of their gates.
type gateHeadsAction struct {
	header
	dst, gates model.Buffer
	heads      int
}

func (a *gateHeadsAction) launch(n int) launch {
	return launch{kernel: kernels.GateHeadsID, grid: driver.D2(a.heads, n)}
}

func (a *gateHeadsAction) run(p *pass, s tokenRange) error {
	return p.GateHeads(a.launch(s.n).grid, kernels.GateHeadsArgs{X: p.at(a.dst, s.first), Gates: p.at(a.gates, s.first),
		Dim: int32(p.prog.Width(a.dst) / a.heads)})
}

// checkGateHeads returns an error for gates that are not as wide as the heads.
func checkGateHeads(p *model.Program, n *model.Node) error {
	if w := p.Width(n.Dst); n.Heads < 1 || w%n.Heads != 0 || p.Width(n.A) != 2*w {
		return fmt.Errorf("%d values of %d heads beside %d of queries and gates, expected twice as many", w, n.Heads, p.Width(n.A))
	}
	return nil
}
