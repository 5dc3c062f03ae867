package convert

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// uniformQuantizer is quantized by quant.Uniform with the step κ · 2^(−offset) · rms, κ being the same for the whole model.
type uniformQuantizer struct {
	*job
	t            *tensorJob
	stats        []quant.RowStats
	stepAtKappa1 float64
	q            quant.Uniform
	// rowFactor multiplies the rows' steps; nil: with 1
	rowFactor []float32
	sample    []float32 // the weights of sampled rows
	rowsOf    []int     // which rows these are

	codes []int16   // with error feedback: of the whole matrix, between begin and end
	gains []float32 // and the rows' scales
}

func (m *uniformQuantizer) qvaluesAreFinal() bool { return false }

func (m *uniformQuantizer) measure() error {
	var err error
	if m.stats, err = m.statistics(m.t); err != nil {
		return err
	}
	sumAbs, sumSq := 0.0, 0.0
	m.t.signal = make([]float64, len(m.stats))
	for r, s := range m.stats {
		sumAbs += s.SumAbs
		sumSq += s.SumSq
		m.t.signal[r] = s.SumSq
	}
	n := float64(m.t.weights())
	m.q.MeanAbs = sumAbs / n
	m.q.Exponent = *m.opt.Tuning.RowExponent
	c := quant.Context{Tied: m.tied(), Layers: m.config.NLayers}
	m.stepAtKappa1 = math.Exp2(-m.opt.Tuning.Offsets.Of(m.t.info.Name, c)) * math.Sqrt(sumSq/n)
	m.rowsOf = m.t.sampleRows()
	cols := m.t.info.Cols
	m.sample = make([]float32, len(m.rowsOf)*cols)
	for i, r := range m.rowsOf {
		if err := m.src.ReadRows(m.t.index, r, r+1, m.sample[i*cols:(i+1)*cols]); err != nil {
			return err
		}
	}
	return nil
}

// tied tells whether the input embedding is the output matrix, too.
func (j *job) tied() bool {
	for _, t := range j.tensors {
		if t.info.Name == "output.weight" {
			return false
		}
	}
	return true
}

func (m *uniformQuantizer) allocate() {
	m.t.noise = make([]float64, m.t.info.Rows)
	m.t.scales.RowScale = make([]uint16, m.t.info.Rows)
	m.t.scales.ColScale = m.fold.columnScales(m.t.info.Name)
}

func (m *uniformQuantizer) rows(r0, r1 int, dst []int32, s *scratch, final bool) error {
	if m.codes != nil {
		return m.copyFed(r0, r1, dst, s, final)
	}
	cols := m.t.info.Cols
	w := grow(&s.floats, len(dst))
	if err := m.src.ReadRows(m.t.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		row, out := w[(r-r0)*cols:(r-r0+1)*cols], dst[(r-r0)*cols:(r-r0+1)*cols]
		m.quantize(r, row, out, final)
	}
	return nil
}

func (m *uniformQuantizer) quantize(r int, row []float32, out []int32, final bool) {
	step := m.rowStep(r)
	if final {
		scale, noise := quant.Row(out, row, step, !m.opt.Tuning.NoCentroid)
		m.t.noise[r] = noise
		m.setScale(r, scale)
	} else if step == 0 {
		clear(out)
	} else {
		quant.Round(out, row, 1/step)
	}
}

// rowStep returns the width of a row's cells.
func (m *uniformQuantizer) rowStep(r int) float32 {
	factor := float32(1)
	if m.rowFactor != nil {
		factor = m.rowFactor[r]
	}
	return m.q.RowStep(&m.stats[r], m.t.info.Cols, factor)
}

// minNormal is the least float32 that is not subnormal: matrices with smaller steps become zeros.
const minNormal = 0x1p-126

// setScale keeps the scale of a row.
func (m *uniformQuantizer) setScale(r int, scale float32) {
	if m.q.Step >= minNormal {
		m.t.scales.RowScale[r] = gguf.FloatToF16(scale / m.q.Step * m.fold.row(m.t.info.Name, r))
	}
}

// setStep fixes κ.
func (m *uniformQuantizer) setStep(kappa float64) {
	m.q.Step = float32(kappa * m.stepAtKappa1)
	m.t.scale = format.Scale{Kind: format.ScaleRow, Scale: m.q.Step}
}

// sampled returns the integers of the sample.
func (m *uniformQuantizer) sampled() []int32 {
	out := make([]int32, len(m.sample))
	cols := m.t.info.Cols
	for i, r := range m.rowsOf {
		m.quantize(r, m.sample[i*cols:(i+1)*cols], out[i*cols:(i+1)*cols], false)
	}
	return out
}

// Classes of rows in entropy.
const (
	entropyRange  = 1 << 11 // integers counted one by one: −entropyRange … entropyRange−1
	entropyOctave = 4       // classes per doubling of the mean magnitude
)

// entropy estimates the bits that the whole matrix takes, from the sample: rows are classed by their mean magnitude in steps.
func (m *uniformQuantizer) entropy() float64 {
	classes := map[int][]uint32{}
	cols := m.t.info.Cols
	out := make([]int32, cols)
	for i, r := range m.rowsOf {
		m.quantize(r, m.sample[i*cols:(i+1)*cols], out, false)
		class := math.MinInt
		if step := m.rowStep(r); step > 0 {
			class = int(math.Round(entropyOctave * math.Log2(m.stats[r].SumAbs/float64(cols)/float64(step))))
		}
		hist := classes[class]
		if hist == nil {
			hist = make([]uint32, 2*entropyRange)
			classes[class] = hist
		}
		for _, q := range out {
			hist[min(max(q+entropyRange, 0), 2*entropyRange-1)]++
		}
	}
	bits := 0.0
	for _, class := range codec.SortedKeys(classes) {
		n := 0.0
		for _, c := range classes[class] {
			n += float64(c)
		}
		bits += n * codec.Entropy(classes[class])
	}
	return bits / float64(len(m.sample)) * float64(m.t.weights())
}

// Targets of fit.
const (
	fitTolerance  = 0.002 // of the file's size, as expected before it is written
	fitTries      = 4
	guesses       = 3      // corrections by estimates alone, before the first pass
	refined       = 0.0001 // of the file's size: what is left to the last correction, which has no exact histograms
	sizeTolerance = 0.004  // of the file's real size
	sizeMargin    = 0.0005 // of a limit: by which a file stays below it,
	minMargin     = 1024   // but at least this many bytes
)

// fit finds κ such that the file takes the bits asked for: first from the entropy and estimated cost of samples, then corrected
// by the exact histograms until it is within fitTolerance. It leaves all matrices ready to be encoded.
func (j *job) fit(settings map[string]any) (tables []*huffman.Table, err error) {
	ms, err := j.measured()
	if err != nil {
		return nil, err
	}
	if j.opt.Tuning.Kappa != 0 {
		return j.useFixedKappa(ms, settings)
	}
	// The bits left for matrices, and how many of them do not go into their entropy.
	target, relativeMiss := j.target()-j.bias-8*float64(j.w.Size()+j.rawBytes()), 0.0
	for try := range guesses + fitTries {
		kappa, entropy := j.solve(ms, target-j.overheadBits)
		if len(ms) > 0 && kappa == 0 {
			return nil, fmt.Errorf("%g bits per weight are too few: without the weights' own entropy the file takes %.2f", j.opt.BPW,
				(j.target()-target+j.overheadBits)/float64(j.weights))
		}
		bits := j.chooseAll(ms, j.kappa != 0 || try >= guesses-1)
		if try >= guesses || j.kappa != 0 {
			bins, err := j.train()
			if err != nil {
				return nil, err
			}
			var exact uint64
			if exact, tables, err = bins.Build(); err != nil {
				return nil, err
			}
			bits, j.kappa = float64(exact), kappa
		}
		bits += 8 * float64(j.overhead(tables))
		j.overheadBits, relativeMiss = bits-entropy, math.Abs(bits-target)/j.target()
		if tables != nil && relativeMiss <= fitTolerance {
			break
		}
	}
	if relativeMiss > refined { // tables and row orders are as good for steps so little different
		j.kappa, _ = j.solve(ms, target-j.overheadBits)
	}
	settings["kappa"], settings["bits_per_weight"] = j.kappa, j.opt.BPW
	return tables, nil
}

// measured returns the matrices, all measured, with their cell widths relative to each other and their columns' order.
func (j *job) measured() (ms []*uniformQuantizer, err error) {
	first := j.kappa == 0
	if first {
		if err := j.measure(); err != nil {
			return nil, err
		}
	}
	for _, t := range j.tensors {
		if m, ok := t.quantizer.(*uniformQuantizer); ok {
			ms = append(ms, m)
		}
	}
	if first {
		j.applySensitivity(ms)
		err = j.sortColumns()
	}
	return ms, err
}

// useFixedKappa is fit for a κ that is given.
func (j *job) useFixedKappa(ms []*uniformQuantizer, settings map[string]any) ([]*huffman.Table, error) {
	for _, m := range ms {
		m.setStep(j.opt.Tuning.Kappa)
	}
	j.chooseAll(ms, true)
	bins, err := j.train()
	if err != nil {
		return nil, err
	}
	_, tables, err := bins.Build()
	settings["kappa"] = j.opt.Tuning.Kappa
	return tables, err
}

// chooseAll chooses the coding of every matrix and returns the estimated bits of all levels. Error feedback makes codes a little
// longer; it is left out if feedback is false.
func (j *job) chooseAll(ms []*uniformQuantizer, feedback bool) float64 {
	parallel.Do(len(ms), func(i int) {
		sample := ms[i].sampled
		if feedback {
			sample = ms[i].feedSample
		}
		codes := sample()
		ms[i].t.choose(codes, codec.Candidates(codes))
	})
	bits := 0.0
	for _, m := range ms {
		bits += m.t.levelBits * float64(m.t.weights())
	}
	return bits
}

// leastLogKappa bounds log2 κ: a normal distribution takes 11 bits per weight then, and estimates end at entropyRange. A model
// that does not get as large as asked for with it, because most of its weights are zero, stays smaller.
const leastLogKappa = -9

// solve finds the κ at which all matrices together take the given bits and returns it with their entropy; 0 if there is none.
func (j *job) solve(ms []*uniformQuantizer, bits float64) (kappa, entropy float64) {
	x := 2 - bits/float64(j.weights) // log2 κ
	if j.kappa != 0 {
		x = math.Log2(j.kappa)
	}
	// A bit less per weight doubles the step, or more than that where few bits are left: each round removes most of the error.
	for range 60 {
		if bits <= 0 || x > 10 {
			return 0, 0
		}
		kappa, entropy = math.Exp2(x), 0
		parts := make([]float64, len(ms))
		parallel.Do(len(ms), func(i int) {
			ms[i].setStep(kappa)
			parts[i] = ms[i].entropy()
		})
		for _, b := range parts {
			entropy += b
		}
		relativeMiss := (entropy - bits) / float64(j.weights)
		if math.Abs(relativeMiss) < 5e-4 {
			break
		}
		if x <= leastLogKappa && relativeMiss < 0 {
			break
		}
		x = max(x+relativeMiss, leastLogKappa)
	}
	return kappa, entropy
}
