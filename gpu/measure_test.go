package gpu

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// measurement is the time of a product of one vector, with the matrix not in the cache.
type measurement struct {
	Device      string  `json:"device"`
	Rows        int     `json:"rows"`
	Cols        int     `json:"cols"`
	Coding      string  `json:"coding"`
	Form        string  `json:"form"`
	Kernel      string  `json:"kernel"`
	Bits        float64 `json:"bits_per_weight"` // as read from device memory
	Microsecs   float64 `json:"us"`              // median
	GBps        float64 `json:"gb_s"`
	GWeights    float64 `json:"g_weights_s"`
	PredictedUS float64 `json:"predicted_us,omitempty"` // of a described device
}

// TestMeasureProducts writes measurements of real layer shapes to the file ELLM_MEASURE (JSON). ELLM_TEST_DEVICE names the GPU; on the
// emulator only the smallest shape runs, and its times mean nothing.
func TestMeasureProducts(t *testing.T) {
	path := os.Getenv("ELLM_MEASURE")
	if path == "" {
		t.Skip("ELLM_MEASURE names no file for the measurements")
	}
	// SmolLM2-135M, SmolLM2-1.7B and Llama-3.2-1B, phi3-mini, mistral-7B.
	shapes := [][2]int{{576, 576}, {1536, 576}, {2048, 2048}, {8192, 2048}, {3072, 3072}, {4096, 4096}, {14336, 4096}, {4096, 14336}}
	codings := map[string]spec{
		"3 bits, row":  {levels: 8, zero: -4, scale: rowScale},
		"4 bits, row":  {levels: 16, zero: -8, scale: rowScale},
		"6 bits, row":  {levels: 16, lowBits: 2, zero: -32, scale: rowScale},
		"4 bits, Q4_K": {levels: 16, scale: q4k, dMin: true, subMin: true},
	}
	var all []measurement
	for name, s := range codings {
		for _, shape := range shapes {
			s.rows, s.cols = shape[0], shape[1]
			if s.scale.Kind == format.ScaleBlock && s.cols%s.scale.Super != 0 {
				continue
			}
			s.rowsPerGroup = format.ChooseRowsPerGroup(s.rows, s.cols, 3.5)
			for _, m := range measure(t, s) {
				m.Coding = name
				t.Logf("%5d × %5d  %-13s %-8s %-20s %9.1f us %8.1f GB/s %8.1f Gw/s, predicted %9.1f us", m.Rows, m.Cols, name, m.Form, m.Kernel, m.Microsecs, m.GBps, m.GWeights, m.PredictedUS)
				all = append(all, m)
			}
			if os.Getenv("ELLM_TEST_DEVICE") == "" {
				break
			}
		}
	}
	b, err := json.MarshalIndent(all, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b, 0o644))
}

// measure multiplies with a random matrix, coded and decoded.
func measure(t *testing.T, s spec) []measurement {
	dev := openEmu(t)
	defer dev.Close()
	info, err := dev.Info()
	require.NoError(t, err)
	sms := max(info.SMs, 1)
	b := newBuilder(t, 1)
	b.kinds = 1 // as most files have it
	m := b.build(s)
	f := b.open(m)
	var all []measurement
	l, err := newLauncher(dev)
	require.NoError(t, err)
	a, err := newArena(dev, int64(s.rows*s.cols)*3+64<<20)
	require.NoError(t, err)
	r := &rig{t, l, a, loadPiece}
	for _, as := range []form{formCoded, formPacked} {
		w := r.loadOne(f, "w", as, useProduct)
		as = w.form
		w.product = l.chooseProduct(w, sms)
		r.ok((&loader{launcher: l}).putDesc(w)) // lanes for that many multiprocessors
		traced, err := newTracer(info).product(w, as)
		require.NoError(t, err)
		work := traced[len(traced)-1].Work
		us := r.timeProduct(w)
		bytes := w.readBytes(as)
		one := measurement{Device: info.Name, Rows: s.rows, Cols: s.cols, Form: w.formName(as), Kernel: work.Kernel,
			Bits: 8 * bytes / float64(s.rows*s.cols), Microsecs: us, GBps: bytes / us / 1e3, GWeights: float64(s.rows*s.cols) / us / 1e3}
		if d, exact, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz); err == nil && exact {
			model, err := predict.NewModel(d)
			require.NoError(t, err)
			one.PredictedUS = 1e6 * model.Time(work).Seconds
		}
		all = append(all, one)
	}
	return all
}

// timeProduct returns the median time of w times a vector, in microseconds.
func (r *rig) timeProduct(w *weight) float64 {
	const flushed, repetitions = 128 << 20, 9
	dev := r.launcher.dev
	p := r.multiplier(w, normals(testRand(), w.Cols), 0, 1)
	r.ok(p.runActions(span{0, 1}))
	product := p.actions[len(p.actions)-1]
	var flush driver.DevicePtr
	if os.Getenv("ELLM_TEST_DEVICE") != "" {
		var err error
		flush, err = dev.Alloc(flushed)
		r.ok(err)
		defer dev.Free(flush)
	}
	times := make([]float64, repetitions)
	for i := range times {
		if flush != 0 { // pushes the matrix out of the cache
			r.ok(dev.Memset(flush, byte(i), flushed))
		}
		start, err := dev.NewEvent()
		r.ok(err)
		end, err := dev.NewEvent()
		r.ok(err)
		r.ok(start.Record(nil))
		r.ok(product.run(p, span{0, 1}))
		r.ok(end.Record(nil))
		d, err := end.Since(start)
		r.ok(err)
		times[i] = float64(d.Nanoseconds()) / 1e3
		r.ok(start.Destroy())
		r.ok(end.Destroy())
	}
	slices.Sort(times)
	if times[repetitions/2] <= 0 {
		r.t.Fatal(fmt.Errorf("a product took no time"))
	}
	return times[repetitions/2]
}
