package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// openEmu starts an emulator for one test. Memory that nothing has written reads as NaN. With ELLM_TEST_DEVICE = the number of a
// GPU (and the build tag cuda) it opens that instead: all tests then check the compiled kernels on the device.
func openEmu(t testing.TB) driver.Device {
	t.Helper()
	return openEmuOrder(t, emu.AtOnce)
}

// openEmuOrder is openEmu with streams that run in an order.
func openEmuOrder(t testing.TB, order emu.Order) driver.Device {
	t.Helper()
	if s := os.Getenv("ELLM_TEST_DEVICE"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err, "ELLM_TEST_DEVICE")
		d, err := cuda.Open(n, cuda.Options{})
		require.NoError(t, err, "ELLM_TEST_DEVICE=%s", s)
		t.Cleanup(func() { d.Close() })
		return &threaded{Device: d}
	}
	path := os.Getenv("ELLM_EMU")
	if path == "" {
		path = "../bin/ellm-emu"
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("ELLM_REQUIRE_EMU") != "" {
			t.Fatalf("the emulator is required: %v", err)
		}
		t.Skipf("SKIPPED: %v; `make emu` builds the emulator", err)
	}
	d, err := emu.Open(emu.Options{Path: path, Memory: 256 << 20, Order: order, Poison: true})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// rig is a device with loaded kernels and an arena, for tests of single kernels.
type rig struct {
	t *testing.T
	*kernels.Launcher
	*arena
	on      processor
	stretch int64 // for loader
}

func newRig(t *testing.T) *rig { return newRigOrder(t, emu.AtOnce) }

// newRigOrder is newRig with streams that run in an order.
func newRigOrder(t *testing.T, order emu.Order) *rig {
	dev := openEmuOrder(t, order)
	l, err := kernels.New(dev)
	require.NoError(t, err)
	l.Label = t.Name()
	a, err := newArena(dev, 64<<20)
	require.NoError(t, err)
	return &rig{t, l, a, processor{sms: 2}, loadStretch}
}

// up copies a slice to a new block.
func up[T uint8 | uint16 | uint32 | int32 | float32](r *rig, s []T) driver.DevicePtr {
	r.t.Helper()
	p, err := r.put(bytesOf(s))
	require.NoError(r.t, err)
	return p
}

// room takes an unwritten block of n elements of T.
func room[T uint8 | uint16 | uint32 | int32 | float32](r *rig, n int) driver.DevicePtr {
	r.t.Helper()
	p, err := r.take(int64(len(bytesOf(make([]T, n)))))
	require.NoError(r.t, err)
	return p
}

// down copies n elements from the device.
func down[T uint8 | uint16 | uint32 | int32 | float32](r *rig, p driver.DevicePtr, n int) []T {
	r.t.Helper()
	s := make([]T, n)
	require.NoError(r.t, r.Launcher.Dev.CopyDtoH(bytesOf(s), p))
	return s
}

func (r *rig) ok(err error) {
	r.t.Helper()
	require.NoError(r.t, err)
}

// writeModel writes a container and opens it.
func writeModel(t *testing.T, cfg *model.Config, tables []*huffman.Table, coded map[string]*format.Coded,
	raw map[string]*format.Raw) *format.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.ellm")
	w, err := format.Create(path)
	require.NoError(t, err)
	defer w.Abort()
	for name, c := range coded {
		require.NoError(t, w.Coded(name, c))
	}
	for name, r := range raw {
		require.NoError(t, w.Raw(name, r))
	}
	js, err := json.Marshal(cfg)
	require.NoError(t, err)
	_, err = w.Finish(&format.Meta{Producer: "test", Config: js}, tables)
	require.NoError(t, err)
	f, err := format.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// loadOne loads a single tensor in the given form; formPacked means the one that plan resident takes.
func (r *rig) loadOne(f *format.Reader, name string, as form, u model.Use, change ...func(*weight)) *weight {
	r.t.Helper()
	tensor, found := f.Tensor(name)
	require.True(r.t, found)
	w := &weight{Tensor: tensor, use: u}
	r.ok(w.describe(f.Tables()))
	if as == formPacked {
		as = w.residentForm()
	}
	w.settle(as, r.on)
	for _, f := range change {
		f(w)
	}
	r.ok(r.Launcher.Dev.Do(func() error {
		work, err := newArena(r.Launcher.Dev, 64<<20)
		r.ok(err)
		size := loadSizes{stretch: r.stretch}
		size.grow(w, w.form)
		size.grow(w, formCoded)
		ld, err := newLoader(r.Launcher, f, r.arena, work, size, r.on)
		r.ok(err)
		return errors.Join(ld.load(context.Background(), []*weight{w}, nil), ld.close(), work.free())
	}))
	return w
}

// multiplier returns a pass whose program is one product, with inputs and results of n tokens in BufGate and BufProj.
func (r *rig) multiplier(w *weight, x []float32, bias driver.DevicePtr, n int) *pass {
	r.t.Helper()
	prog := &model.Program{Config: model.Config{NFF: w.Cols, NEmbd: w.Rows}}
	prog.Nodes = []model.Node{{Op: model.OpMatMul, A: model.BufGate, Dst: model.BufProj, Weight: w.Name}}
	weights := []*weight{w}
	if bias != 0 {
		prog.Nodes[0].Bias = "bias"
		weights = append(weights, &weight{Tensor: &format.Tensor{Name: "bias"}, vector: bias})
	}
	p := &pass{Launcher: r.Launcher, sms: 2, batch: n, n: n, prog: prog}
	p.buffers[model.BufGate], p.buffers[model.BufProj] = up(r, x), room[float32](r, n*w.Rows)
	if w.Coded != nil {
		p.preparedStride = allocationBytes(preparedBytes(w.Coded))
		p.prepared = room[uint8](r, max(n, gemvBatch)*int(p.preparedStride))
		p.side = room[uint8](r, int(sideBytes(w.Coded)))
		p.planeBytes = w.planeBytes(max(2*w.Coded.Coding.RowsPerGroup, quadRows)) // several pieces
		planes := [2]driver.DevicePtr{room[uint8](r, int(p.planeBytes)), room[uint8](r, int(p.planeBytes))}
		r.ok(r.Launcher.Dev.Do(func() (err error) {
			p.ring, err = newPlaneRing(r.Launcher.Dev, planes)
			r.ok(err)
			r.Stream, err = r.Launcher.Dev.NewStream()
			return err
		}))
		p.scaled = room[float32](r, n*w.Cols)
	}
	tasks := room[uint8](r, int(allocationBytes(counterBytes(&prog.Config))+taskBytes(prog)))
	s, err := p.schedule(weights, tasks, 0, nil)
	r.ok(err)
	r.ok(s.upload())
	return p
}

// rawOf encodes values as a raw tensor.
func rawOf(rows, cols int, typ format.DType, v []float32) *format.Raw {
	t := &format.Raw{Rows: rows, Cols: cols, DType: typ}
	for _, x := range v {
		bits := math.Float32bits(x)
		switch typ {
		case format.F32:
			t.Data = append(t.Data, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
		case format.BF16:
			t.Data = append(t.Data, byte(bits>>16), byte(bits>>24))
		case format.F16:
			h := float16.Fromfloat32(x).Bits()
			t.Data = append(t.Data, byte(h), byte(h>>8))
		}
	}
	return t
}

// requireClose fails unless the normalized mean squared error is at most limit.
func requireClose(t *testing.T, want, got []float32, limit float64, msg ...any) {
	t.Helper()
	require.Len(t, got, len(want), msg...)
	var num, den float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		num += d * d
		den += float64(want[i]) * float64(want[i])
	}
	if den == 0 {
		den = 1
	}
	assert.LessOrEqual(t, num/den, limit, msg...)
	assert.False(t, math.IsNaN(num/den), msg...)
}
