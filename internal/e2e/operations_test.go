package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// walker is what goes through a program's operations one by one, and must know every one of them.
type walker struct {
	name string
	walk func(m *walked) error
}

// walked is a model with a program that may be changed.
type walked struct {
	file *format.Reader
	src  source.Model
	prog model.Program
}

// Rows implements calibrate.Weights.
func (m *walked) Rows(name string, r0, r1 int, dst []float32) error {
	for i, t := range m.src.Tensors() {
		if t.Name == name {
			return m.src.ReadRows(i, r0, r1, dst)
		}
	}
	return fmt.Errorf("no tensor %s", name)
}

func walkers() []walker {
	ctx, text := context.Background(), [][]int32{{3, 4, 5, 6}}
	opt := engine.LoadOptions{NCtx: 64, Threads: 1}
	return []walker{
		{"cpu", func(m *walked) error {
			b := cpu.New()
			if err := b.Load(ctx, m.file, &m.prog, opt); err != nil {
				return err
			}
			_, err := b.Forward(ctx, engine.SingleRun(text[0], 0, 1))
			return joinErrors(err, b.Close())
		}},
		{"gpu plan", func(m *walked) error {
			_, err := gpu.PlanMemory(driver.Info{MemFree: 1 << 40, SMs: 1}, m.file, &m.prog, opt)
			return err
		}},
		{"calibrate forward", func(m *walked) error {
			return calibrate.Run(ctx, &m.prog, m, text, 0, func(*model.Input, []float32, int) error { return nil }, nil)
		}},
		{"calibrate backward", func(m *walked) error {
			_, err := calibrate.Differentiate(ctx, &m.prog, m, text, func(int64, int64) {})
			return err
		}},
		{"inputs and tensors", func(m *walked) error {
			if len(m.prog.Inputs()) == 0 || len(m.prog.Tensors()) == 0 {
				return fmt.Errorf("no inputs or no tensors")
			}
			for i := range m.prog.Nodes {
				if n := &m.prog.Nodes[i]; n.Op >= model.NumOps || n.Op != model.OpEmbed && len(n.Reads()) == 0 {
					return fmt.Errorf("%s reads nothing", n.Op)
				}
			}
			return nil
		}},
	}
}

func joinErrors(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Every operation occurs in a family, and everything that walks programs walks that family's; an operation that nobody has heard
// of is refused by all of them.
func TestEveryWalkerKnowsEveryOperation(t *testing.T) {
	names, err := testmodel.Families()
	require.NoError(t, err)
	seen := map[model.Op]bool{}
	for _, name := range names {
		family, err := testmodel.ReadFamily(name)
		require.NoError(t, err)
		path, err := family.WriteHF(t.TempDir())
		require.NoError(t, err)
		src, err := source.Open(path)
		require.NoError(t, err)
		file := compressed(t, src)
		prog, _, err := engine.Describe(file)
		require.NoError(t, err)
		for _, w := range walkers() {
			m := &walked{file, src, *prog}
			assert.NoError(t, w.walk(m), "%s walks %s", w.name, name)
			m.prog.Nodes = append([]model.Node{{Op: model.NumOps, Layer: -1}}, prog.Nodes...)
			assert.ErrorContains(t, w.walk(m), fmt.Sprint(uint8(model.NumOps)), "%s and an unknown operation", w.name)
		}
		for _, n := range prog.Nodes {
			seen[n.Op] = true
		}
		require.NoError(t, src.Close())
	}
	for op := range model.NumOps {
		assert.True(t, seen[op], "no family has operation %s", op)
		assert.False(t, strings.HasPrefix(op.String(), "operation"), "operation %d has no name", op)
	}
}
