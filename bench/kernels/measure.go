package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

const (
	repetitions = 11
	flushBytes  = 256 << 20 // more than any cache; smallFlush for devices with little memory, whose caches are small, too
	smallFlush  = 16 << 20
	smallDevice = 12 << 30 // bytes of memory
	worstError  = 1e-6     // normalized mean squared error of a product
	checkedRows = 64       // that are computed on the host, too
)

// kept is a device that outlives the backends on it.
type kept struct{ driver.Device }

func (kept) Close() error { return nil }

// bench measures on one device.
type bench struct {
	dev       driver.Device
	info      driver.Info
	timed     bool
	model     *predict.Model // of the device, or of one like it
	described string         // which description model is of; "" = none is near
	dir       string
	flush     driver.DevicePtr
	flushed   int64 // bytes at flush
}

func newBench(dev driver.Device, timed bool) (*bench, error) {
	b := &bench{dev: kept{dev}, timed: timed}
	var err error
	if b.info, err = dev.Info(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "ellm-kernels"); err != nil || !timed {
		return b, err
	}
	d, exact, err := predict.Nearest(b.info.Name, b.info.CCMajor, b.info.CCMinor, b.info.SMs, b.info.ClockMHz)
	if err != nil {
		return nil, err
	}
	if b.described = d.Title; !exact {
		b.described = "the nearest described device, " + d.Title + ", scaled"
	}
	if b.model, err = predict.NewModel(d); err != nil {
		return nil, err
	}
	if b.flushed = flushBytes; b.info.MemTotal < smallDevice {
		b.flushed = smallFlush
	}
	return b, dev.Do(func() error {
		b.flush, err = dev.Alloc(b.flushed)
		return err
	})
}

func (b *bench) close() error {
	if b.flush != 0 {
		b.dev.Do(func() error { return b.dev.Free(b.flush) })
	}
	return os.RemoveAll(b.dir)
}

// copyRate returns 10⁹ bytes per second that a copying kernel reads and writes.
func (b *bench) copyRate() (rate float64, err error) {
	err = b.dev.Do(func() error {
		k, err := b.dev.Kernel("copy_words", 3)
		if err != nil {
			return err
		}
		half := uint64(b.flushed / 2)
		c := driver.LaunchConfig{Grid: driver.D1(16 * max(b.info.SMs, 1)), Block: driver.D1(256)}
		var times []time.Duration
		for range repetitions {
			t, err := b.timeLaunch(func() error { return b.dev.Launch(k, c, uint64(b.flush), uint64(b.flush)+half, half/4) })
			if err != nil {
				return err
			}
			times = append(times, t)
		}
		rate = float64(b.flushed) / float64(median(times).Nanoseconds())
		return nil
	})
	return rate, err
}

// timeLaunch times what f launches on the default stream.
func (b *bench) timeLaunch(f func() error) (time.Duration, error) {
	start, err := b.dev.NewEvent()
	if err != nil {
		return 0, err
	}
	defer start.Destroy()
	end, err := b.dev.NewEvent()
	if err != nil {
		return 0, err
	}
	defer end.Destroy()
	if err := errors.Join(start.Record(nil), f(), end.Record(nil)); err != nil {
		return 0, err
	}
	return end.Since(start)
}

func median(v []time.Duration) time.Duration {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// measured is a matrix on the device with the times so far.
type measured struct {
	*gpu.Single
	result
	file  *format.Reader
	times []time.Duration
}

// groups divides settings into those that are measured in turns: the ones of a coding, or, where memory does not hold that many
// matrices at once, single ones. Matrices of different codings are never in memory together.
func (b *bench) groups(s shape, settings []setting) (groups [][]setting) {
	byCoding := map[coding][]setting{}
	for _, st := range settings {
		byCoding[st.coding] = append(byCoding[st.coding], st)
	}
	const bytesPerWeight = 2 // on the device, in the widest form, with what loading takes
	for _, c := range codings {
		group := byCoding[c]
		if len(group) > 0 && int64(len(group))*int64(s.rows)*int64(s.cols)*bytesPerWeight <= (b.info.MemFree-b.info.MemReserve)/2 {
			groups = append(groups, group)
			continue
		}
		for i := range group {
			groups = append(groups, group[i:i+1])
		}
	}
	return groups
}

// shape measures all settings that s admits, in turns.
func (b *bench) shape(s shape, settings []setting) (results []result, err error) {
	var all []*measured
	defer func() {
		for _, m := range all {
			err = errors.Join(err, m.Close(), m.file.Close())
		}
	}()
	matrices := map[coding]*codec.Matrix{}
	for _, st := range settings {
		if matrices[st.coding] == nil {
			matrices[st.coding] = st.coding.matrix(s)
		}
		m, err := b.open(s, st, matrices[st.coding])
		if err != nil {
			return nil, err
		}
		if m != nil {
			all = append(all, m)
		}
	}
	if b.timed {
		for i := range repetitions {
			for _, m := range all {
				if err := b.repeat(m, byte(i)); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, m := range all {
		if b.timed {
			m.result.MeasuredUS = float64(median(m.times).Nanoseconds()) / 1e3
		}
		results = append(results, m.result)
	}
	return results, nil
}

func (b *bench) repeat(m *measured, fill byte) error {
	if err := b.dev.Do(func() error {
		return errors.Join(b.dev.Memset(b.flush, fill, b.flushed), b.dev.Synchronize())
	}); err != nil {
		return err
	}
	t, err := m.Multiply()
	m.times = append(m.times, t)
	return err
}

// open loads a matrix and checks a product with it. It returns nil where the setting is impossible.
func (b *bench) open(s shape, st setting, m *codec.Matrix) (*measured, error) {
	path, err := st.write(b.dir, m)
	if errors.Is(err, errImpossible) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := format.Open(path)
	if err != nil {
		return nil, err
	}
	x := make([]float32, st.tokens*s.cols)
	rng := rand.New(rand.NewPCG(1, uint64(st.tokens)))
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	single, err := gpu.OpenSingle(b.dev, f, "w", st.plan, x)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	out := &measured{Single: single, file: f, result: newResult(s, st, f, single, b.model)}
	if _, err := single.Multiply(); err != nil {
		return nil, errors.Join(err, single.Close(), f.Close())
	}
	if err := out.check(m, x); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", out.line(false), err), single.Close(), f.Close())
	}
	return out, nil
}

// check compares some rows of the product with the same on the host.
func (m *measured) check(w *codec.Matrix, x []float32) error {
	y, err := m.Result()
	if err != nil {
		return err
	}
	var num, den float64
	step := max(1, w.Rows/checkedRows)
	for r := 0; r < w.Rows; r += step {
		row := weights(w, r)
		for t := range len(x) / w.Cols {
			sum := 0.0
			for j, v := range row {
				sum += float64(v) * float64(x[t*w.Cols+j])
			}
			d := sum - float64(y[t*w.Rows+r])
			num, den = num+d*d, den+sum*sum
		}
	}
	m.Error = num / den
	if !(m.Error <= worstError) || math.IsInf(m.Error, 0) {
		return fmt.Errorf("normalized mean squared error %.3g, expected at most %g", m.Error, worstError)
	}
	return nil
}

// writeRates measures the rates that device descriptions assume.
func (b *bench) writeRates(path string) error {
	r, err := b.measureRates()
	if err != nil {
		return err
	}
	for _, x := range r.Rates {
		fmt.Printf("%-20s %12.4g %s\n", x.Name, x.Value, x.Unit)
	}
	for _, m := range r.Missing {
		fmt.Println("not measured:", m)
	}
	return r.write(path)
}
