package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Where a token's state comes from and goes to, if not a place (cuda/states.cuh).
const (
	sameState  = -1
	emptyState = -2
)

// convTaps is the most positions of a convolution (CONV_TAPS of cuda/short_conv.cu), convBlock the channels of a block.
const (
	convTaps  = 4
	convBlock = 64
)

// states are the device's places for states of sequences.
type states struct {
	dev   driver.DevicePtr // float32 [places][place]
	moves driver.DevicePtr // int32 [2][batch]: where every token's state comes from, and where it goes
	place int              // floats
	next  int              // floats of a place that nodes have
	host  []int32          // as moves, of the batch being run
}

// placeStates uploads where the states of a batch's tokens come from and go to.
func (p *pass) placeStates(b engine.Batch) error {
	s := &p.states
	if s.place == 0 {
		return nil
	}
	if s.host == nil {
		s.host = make([]int32, 2*p.batch)
	}
	from, to := s.host[:p.batch], s.host[p.batch:]
	for t := range from {
		from[t], to[t] = sameState, sameState
	}
	at := 0
	for i := range b.Runs {
		r := &b.Runs[i]
		if from[at] = r.State; r.Pos == 0 {
			from[at] = emptyState
		}
		for _, save := range r.Saves {
			to[at+save.After-1] = save.Slot
		}
		at += r.N
	}
	p.Label = "states"
	return p.Dev.CopyHtoDOn(p.Stream, s.moves, bytesOf(s.host))
}

// state returns where the first place's part of a node's state is, and goes on to the next node's.
func (s *scheduler) state(n *model.Node) driver.DevicePtr {
	st := &s.p.states
	at := st.dev + driver.DevicePtr(4*st.next)
	st.next += s.p.prog.StateFloats(n)
	return at
}

// convAction is a convolution: a gated one, or one with SiLU.
type convAction struct {
	header
	kernelID kernels.ID
	a, dst   model.Buffer
	weight   driver.DevicePtr
	state    driver.DevicePtr // the node's part of the first place
	kernel   int
}

func (s *scheduler) conv(h header, n *model.Node) {
	id := kernels.ShortConvID
	if n.Op == model.OpConv {
		id = kernels.ConvSiluID
	}
	s.add(&convAction{header: h, kernelID: id, a: n.A, dst: n.Dst, weight: s.byName[n.Weight].vector, kernel: n.Kernel,
		state: s.state(n)})
}

func (a *convAction) launch(p *pass) launch {
	return launch{kernel: a.kernelID, grid: driver.D1(ceilDiv(p.prog.Width(a.dst), convBlock))}
}

func (a *convAction) run(p *pass, s tokenRange) error {
	st := &p.states
	args := kernels.ShortConvArgs{X: p.at(a.a, 0), Y: p.at(a.dst, 0), Weights: a.weight,
		States: a.state, From: st.moves, To: st.moves + driver.DevicePtr(4*p.batch), Tokens: int32(s.n),
		Width:  int32(p.prog.Width(a.dst)),
		Kernel: int32(a.kernel), Place: int64(st.place)}
	if a.kernelID == kernels.ConvSiluID {
		return p.ConvSilu(a.launch(p).grid, kernels.ConvSiluArgs(args))
	}
	return p.ShortConv(a.launch(p).grid, args)
}

// cost: a thread reads up to three values of each token and writes one, one token after the other.
func (a *convAction) cost(p *pass, s tokenRange) predict.Work {
	const bytes = 16
	w := a.launch(p).work(predict.WorkItem{Bytes: bytes * float64(p.values(a.dst, s))})
	w.Rounds = float64(s.n)
	return w
}

// checkConv returns an error for a convolution that the kernel does not take.
func checkConv(p *model.Program, n *model.Node) error {
	inputs := 3 // of a channel
	if n.Op == model.OpConv {
		inputs = 1
	}
	if n.Kernel < 2 || n.Kernel > convTaps || p.Width(n.Dst) < 1 || p.Width(n.A) != inputs*p.Width(n.Dst) {
		return fmt.Errorf("a convolution over %d positions of %d channels; the GPU takes 2 to %d positions (use --device cpu)",
			n.Kernel, p.Width(n.Dst), convTaps)
	}
	return nil
}
