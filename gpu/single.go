package gpu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Single multiplies one matrix of a file with the same vectors again and again, for measurements of kernels. It is a model of one
// product.
type Single struct {
	*Backend
	Launches []Launch // of one Multiply, the preparation of the vectors left out
	Form     string   // how the matrix lies in device memory
	Bytes    int64    // that it takes there
	rows     int
	products []action
}

// OpenSingle loads tensor `name` of f on dev, which it takes over, as plan says, and x, [tokens][cols].
func OpenSingle(dev driver.Device, f *format.Reader, name string, plan engine.Plan, x []float32) (*Single, error) {
	s := &Single{Backend: New(dev)}
	if err := s.open(f, name, plan, x); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Single) open(f *format.Reader, name string, plan engine.Plan, x []float32) error {
	t, ok := f.Tensor(name)
	if !ok {
		return fmt.Errorf("%s: there is no tensor %s", f.Path(), name)
	}
	if len(x) == 0 || len(x)%t.Cols != 0 {
		return fmt.Errorf("tensor %s: %d inputs are not vectors of %d", name, len(x), t.Cols)
	}
	n := len(x) / t.Cols
	cfg := model.Config{NEmbd: t.Rows, NFF: t.Cols, NVocab: 1, NHeads: 1, NKVHeads: 1, HeadDim: 8}
	prog := &model.Program{Config: cfg, Nodes: []model.Node{{Op: model.OpMatMul, A: model.BufGate, Dst: model.BufProj,
		Weight: name}}}
	opt := engine.LoadOptions{Plan: plan, NCtx: n, MaxBatch: n}
	info, err := s.dev.Info()
	if err != nil {
		return err
	}
	fc, err := ForecastRun(info, f, prog, opt, n, 0)
	if err != nil {
		return err
	}
	s.rows, s.Form, s.Bytes = t.Rows, fc.Tensors[0].Form, fc.Tensors[0].Bytes
	for _, l := range fc.Prefill {
		if l.Work.Products() > 0 {
			s.Launches = append(s.Launches, l)
		}
	}
	if err := s.Load(context.Background(), f, prog, opt); err != nil {
		return err
	}
	for _, a := range s.pass.actions {
		if _, prepares := a.(*prepareAction); !prepares {
			s.products = append(s.products, a)
		}
	}
	return s.dev.Do(func() error {
		if err := s.dev.CopyHtoD(s.pass.buffers[model.BufGate], bytesOf(x)); err != nil {
			return err
		}
		s.pass.setRuns([]engine.Run{{N: n}})
		return s.pass.runActions(tokenRange{0, n})
	})
}

// Multiply multiplies all vectors and returns how long the device took.
func (s *Single) Multiply() (elapsed time.Duration, err error) {
	err = s.dev.Do(func() (err error) {
		start, err := s.dev.NewEvent()
		if err != nil {
			return err
		}
		end, err := s.dev.NewEvent()
		if err != nil {
			return errors.Join(err, start.Destroy())
		}
		defer func() { err = errors.Join(err, start.Destroy(), end.Destroy()) }()
		if err := start.Record(s.pass.Stream); err != nil {
			return err
		}
		for _, a := range s.products {
			if err := a.run(s.pass, tokenRange{0, s.pass.n}); err != nil {
				return err
			}
		}
		if err := end.Record(s.pass.Stream); err != nil {
			return err
		}
		elapsed, err = end.Since(start)
		return err
	})
	return elapsed, err
}

// Result returns what the last Multiply gave, [tokens][rows].
func (s *Single) Result() ([]float32, error) {
	y := make([]float32, s.pass.n*s.rows)
	err := s.dev.Do(func() error {
		if err := s.dev.Synchronize(); err != nil {
			return err
		}
		return s.dev.CopyDtoH(bytesOf(y), s.pass.buffers[model.BufProj])
	})
	return y, err
}
