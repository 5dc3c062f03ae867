package gpu

import (
	"errors"
	"slices"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

const (
	trialShapes = 2 // kinds of matrices that are timed: those in which most weights are
	// A product is timed this often, but no longer than trialTime; the shortest time counts.
	trialTurns = 8
	trialTime  = 20 * time.Millisecond
	// Between two products this much memory is written, more than the second-level cache holds; on devices with less than
	// smallDevice of memory, whose caches are small, smallFlush.
	trialFlush, smallFlush, smallDevice = 128 << 20, 16 << 20, 12 << 30
	// A ratio of measured to predicted time beyond this, or below its inverse, is no measurement.
	maxRatio = 100
)

// corrections are ratios of measured to predicted times of products; nil or empty: predictions stand as they are.
type corrections struct {
	kernels map[string]float64
	forms   map[bool]float64 // by whether the matrix is coded: for kernels that were not timed
}

// newCorrections returns those that follow from some times.
func newCorrections(times []engine.ProductTime) *corrections {
	c := &corrections{kernels: map[string]float64{}, forms: map[bool]float64{}}
	measured, predicted := map[bool]float64{}, map[bool]float64{}
	for _, t := range times {
		c.kernels[t.Kernel] = t.MeasuredUS / t.PredictedUS
		measured[t.Coded] += t.MeasuredUS
		predicted[t.Coded] += t.PredictedUS
	}
	for coded, p := range predicted {
		c.forms[coded] = measured[coded] / p
	}
	return c
}

// of returns by what the predicted time of a product is to be multiplied.
func (c *corrections) of(kernel string, coded bool) float64 {
	if c == nil {
		return 1
	}
	if f, ok := c.kernels[kernel]; ok {
		return f
	}
	if f, ok := c.forms[coded]; ok {
		return f
	}
	return 1
}

// shared is a device that outlives the backends on it.
type shared struct{ driver.Device }

func (shared) Close() error { return nil }

// trial times products of a model on the device.
type trial struct {
	dev     driver.Device
	file    *format.Reader
	model   *predict.Model
	flush   driver.DevicePtr
	flushed int64
}

// tryProducts times the products of one vector with a matrix of each of the heaviest kinds, coded and decoded, that `known` has
// not got. It returns all times that plan auto goes by. These matrices are loaded for it, one after the other.
func tryProducts(dev driver.Device, info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions,
	known []engine.ProductTime) (times []engine.ProductTime, err error) {
	plan, err := newDevicePlan(info, f, prog, opt)
	if err != nil {
		return nil, err
	}
	d, _, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz)
	if err != nil {
		return nil, err
	}
	t := &trial{dev: dev, file: f}
	if t.model, err = predict.NewModel(d); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	on := processorOf(info)
	for _, w := range heaviest(plan.weights, trialShapes) {
		for _, as := range []form{formCoded, w.residentForm()} {
			k := chooseProduct(w, as, on)
			if i := slices.IndexFunc(known, func(t engine.ProductTime) bool { return t.Kernel == k.gemv.String() }); i >= 0 {
				times = append(times, known[i])
				continue
			}
			if err := t.open(info); err != nil {
				return times, err
			}
			time, err := t.product(w, as)
			if err != nil {
				return times, err
			}
			if plausible(time) { // else predictions stand
				times = append(times, time)
				known = append(known, time)
			}
		}
	}
	return times, nil
}

// heaviest returns a matrix of each of the n kinds (shapes and codings) in which most weights are, of those that have a choice.
func heaviest(weights []*weight, n int) (all []*weight) {
	type kind struct {
		rows, cols, bits, lowBits int
		scale                     int32
	}
	of := map[kind]int{}
	var most []int
	for _, w := range weights {
		if w.Coded == nil || w.use&model.UseProduct == 0 {
			continue
		}
		k := kind{w.Rows, w.Cols, w.packed.bits, w.Coded.Coding.LowBits, w.desc.ScaleKind}
		i, ok := of[k]
		if !ok {
			i = len(all)
			of[k] = i
			all, most = append(all, w), append(most, 0)
		}
		most[i] += w.Rows * w.Cols
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return most[b] - most[a] })
	var chosen []*weight
	for _, i := range order[:min(n, len(order))] {
		chosen = append(chosen, all[i])
	}
	return chosen
}

// open takes the memory that is written between two products.
func (t *trial) open(info driver.Info) error {
	if t.flush != 0 {
		return nil
	}
	if t.flushed = trialFlush; info.MemTotal < smallDevice {
		t.flushed = smallFlush
	}
	return t.dev.Do(func() (err error) {
		t.flush, err = t.dev.Alloc(t.flushed)
		return err
	})
}

func (t *trial) close() error {
	if t.flush == 0 {
		return nil
	}
	return t.dev.Do(func() error { return t.dev.Free(t.flush) })
}

// product times a product with w in a form.
func (t *trial) product(w *weight, as form) (r engine.ProductTime, err error) {
	plan := engine.PlanResident
	if as == formCoded {
		plan = engine.PlanFused
	}
	x := make([]float32, w.Cols)
	for i := range x {
		x[i] = float32(i%7) - 3
	}
	s, err := OpenSingle(shared{t.dev}, t.file, w.Name, plan, x)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r = engine.ProductTime{Tensor: w.Name, Form: s.Form, Coded: as == formCoded, Kernel: s.Launches[0].Kernel}
	for _, l := range s.Launches {
		r.PredictedUS += 1e6 * t.model.Time(l.Work).Seconds
	}
	start := time.Now()
	for turn := 0; turn <= trialTurns && (turn < 2 || time.Since(start) < trialTime); turn++ {
		if err := t.dev.Do(func() error { return t.dev.Memset(t.flush, 0, t.flushed) }); err != nil {
			return r, err
		}
		took, err := s.Multiply()
		if err != nil {
			return r, err
		}
		// the first one may compile the kernel
		if us := 1e6 * took.Seconds(); turn > 0 && (r.MeasuredUS == 0 || us < r.MeasuredUS) {
			r.MeasuredUS = us
		}
	}
	return r, nil
}

// plausible tells whether a time may be used.
func plausible(t engine.ProductTime) bool {
	ratio := t.MeasuredUS / t.PredictedUS
	return t.MeasuredUS > 0 && t.PredictedUS > 0 && ratio < maxRatio && ratio > 1.0/maxRatio
}
