package gpu

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// mixedRuns are sequences that begin, go on, go on twice in a batch, and keep states on the way; over 12 tokens and 5 places.
func mixedRuns() []engine.Run {
	return []engine.Run{
		{N: 3, Saves: []engine.StateSave{{After: 1, Slot: 2}, {After: 3, Slot: 4}}},
		{Pos: 7, N: 1, State: 0, Saves: []engine.StateSave{{After: 1, Slot: 0}}},
		{Pos: 3, N: 2, State: 4, Saves: []engine.StateSave{{After: 2, Slot: 4}}},
		{Pos: 1, N: 1, State: 2},
		{Pos: 9, N: 5, State: 1, Saves: []engine.StateSave{{After: 4, Slot: 3}}},
	}
}

// statesPass is a pass with states for the nodes of a program, and random contents.
func statesPass(r *rig, prog *model.Program, places, tokens int) (*pass, []float32) {
	p := &pass{Launcher: r.Launcher, prog: prog, batch: tokens, n: tokens}
	p.states.place = engine.StateFloats(prog)
	values := normals(testRand(), places*p.states.place)
	p.states.dev, p.states.moves = up(r, values), room[int32](r, 2*tokens)
	return p, values
}

// followStates calls step for every token of a batch with a node's part of its sequence's state, which step changes. The part has
// n floats from float `first` of a place on.
func followStates(runs []engine.Run, all []float32, place, first, n int, step func(token int, state []float32)) {
	token := 0
	for _, r := range runs {
		state := make([]float32, n)
		if r.Pos > 0 {
			copy(state, all[int(r.State)*place+first:])
		}
		saves := r.Saves
		for i := range r.N {
			step(token, state)
			if token++; len(saves) > 0 && saves[0].After == i+1 {
				copy(all[int(saves[0].Slot)*place+first:], state)
				saves = saves[1:]
			}
		}
	}
}

// Convolutions of sequences in a batch start from their states, within the batch too, and keep those that are asked for.
func TestConvolutionsOfManySequences(t *testing.T) {
	t.Run("gated", func(t *testing.T) { convolutionsOfManySequences(t, model.OpShortConv, kernels.ShortConvID, 3) })
	t.Run("SiLU", func(t *testing.T) { convolutionsOfManySequences(t, model.OpConv, kernels.ConvSiluID, 1) })
}

func convolutionsOfManySequences(t *testing.T, op model.Op, id kernels.ID, inputs int) {
	const tokens, places = 12, 5
	for _, width := range []int{8, 64, 100} {
		for kernel := 2; kernel <= convTaps; kernel++ {
			r := newRig(t)
			prog := &model.Program{Config: model.Config{NEmbd: width, NLayers: 1, Layers: "c", ConvKernel: kernel}}
			prog.Nodes = []model.Node{
				{Op: op, Dst: model.BufMix, A: model.BufIn, Weight: "unused", Kernel: kernel}, // so that a place has two parts
				{Op: op, Dst: model.BufMix, A: model.BufIn, Weight: "w", Kernel: kernel},
			}
			p, states := statesPass(r, prog, places, tokens)
			x, w := normals(testRand(), tokens*inputs*width), normals(testRand(), width*kernel)
			p.buffers[model.BufIn], p.buffers[model.BufMix] = up(r, x), room[float32](r, tokens*width)
			runs := mixedRuns()
			r.ok(p.placeStates(engine.Batch{Runs: runs}))
			own := (kernel - 1) * width
			a := &convAction{kernelID: id, a: model.BufIn, dst: model.BufMix, weight: up(r, w), kernel: kernel,
				state: p.states.dev + driver.DevicePtr(4*own)}
			r.ok(a.run(p, tokenRange{0, tokens}))
			want, wantStates := make([]float32, tokens*width), slices.Clone(states)
			followStates(runs, wantStates, 2*own, own, own, func(token int, seen []float32) {
				for c := range width {
					in := x[token*inputs*width+c:]
					now := in[0]
					if inputs == 3 {
						now *= in[2*width]
					}
					sum := w[c*kernel+kernel-1] * now
					for k := range kernel - 1 {
						sum += w[c*kernel+k] * seen[k*width+c]
					}
					if want[token*width+c] = float32(float64(sum) * logistic(sum)); inputs == 3 {
						want[token*width+c] = in[width] * sum
					}
					for k := range kernel - 2 {
						seen[k*width+c] = seen[(k+1)*width+c]
					}
					seen[(kernel-2)*width+c] = now
				}
			})
			y := down[float32](r, p.buffers[model.BufMix], tokens*width)
			requireClose(t, want, y, 1e-12, "%d channels, %d positions", width, kernel)
			got := down[float32](r, p.states.dev, len(states))
			require.Equal(t, wantStates, got, "states of %d channels, %d positions", width, kernel)
			require.NotEqual(t, states, got)
		}
	}
}

// What the kernel cannot do is refused before anything is allocated.
func TestConvolutionsOverMorePositionsAreRefused(t *testing.T) {
	prog := &model.Program{Config: model.Config{NEmbd: 8, Layers: "c"}}
	err := checkConv(prog, &model.Node{Op: model.OpShortConv, Dst: model.BufMix, A: model.BufIn, Kernel: convTaps + 1})
	require.ErrorContains(t, err, "--device cpu")
}
