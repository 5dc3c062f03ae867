package convert

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// uniformMatrix is quantized by quant.Uniform with the step κ · 2^(−offset) · rms, κ being the same for the whole model.
type uniformMatrix struct {
	*job
	p      *plan
	stats  []quant.RowStats
	weight float64 // step at κ = 1
	q      quant.Uniform
	// rowFactor multiplies the rows' steps; nil: with 1
	rowFactor []float32
	sample    []float32 // the weights of sampled rows
	rowsOf    []int     // which rows these are

	codes []int16   // with error feedback: of the whole matrix, between begin and end
	gains []float32 // and the rows' scales
}

func (m *uniformMatrix) ready() bool { return false }

func (m *uniformMatrix) measure() error {
	var err error
	if m.stats, err = m.statistics(m.p); err != nil {
		return err
	}
	sumAbs, sumSq := 0.0, 0.0
	m.p.signal = make([]float64, len(m.stats))
	for r, s := range m.stats {
		sumAbs += s.SumAbs
		sumSq += s.SumSq
		m.p.signal[r] = s.SumSq
	}
	n := float64(m.p.weights())
	m.q.MeanAbs = sumAbs / n
	m.q.Exponent = *m.opt.Tuning.RowExponent
	c := quant.Context{Tied: m.tied(), Layers: m.config.NLayers}
	m.weight = math.Exp2(-m.opt.Tuning.Offsets.Of(m.p.info.Name, c)) * math.Sqrt(sumSq/n)
	m.rowsOf = m.p.sampleRows()
	cols := m.p.info.Cols
	m.sample = make([]float32, len(m.rowsOf)*cols)
	for i, r := range m.rowsOf {
		if err := m.src.ReadRows(m.p.index, r, r+1, m.sample[i*cols:(i+1)*cols]); err != nil {
			return err
		}
	}
	return nil
}

// tied tells whether the input embedding is the output matrix, too.
func (j *job) tied() bool {
	for _, p := range j.plans {
		if p.info.Name == "output.weight" {
			return false
		}
	}
	return true
}

func (m *uniformMatrix) allocate() {
	m.p.noise = make([]float64, m.p.info.Rows)
	m.p.scales.RowScale = make([]uint16, m.p.info.Rows)
	m.p.scales.ColScale = m.fold.columnScales(m.p.info.Name)
}

func (m *uniformMatrix) rows(r0, r1 int, dst []int32, s *scratch, final bool) error {
	if m.codes != nil {
		return m.fed(r0, r1, dst, s, final)
	}
	cols := m.p.info.Cols
	w := grow(&s.floats, len(dst))
	if err := m.src.ReadRows(m.p.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		row, out := w[(r-r0)*cols:(r-r0+1)*cols], dst[(r-r0)*cols:(r-r0+1)*cols]
		m.quantize(r, row, out, final)
	}
	return nil
}

func (m *uniformMatrix) quantize(r int, row []float32, out []int32, final bool) {
	step := m.rowStep(r)
	if final {
		scale, noise := quant.Row(out, row, step, !m.opt.Tuning.NoCentroid)
		m.p.noise[r] = noise
		m.setScale(r, scale)
	} else if step == 0 {
		clear(out)
	} else {
		quant.Round(out, row, 1/step)
	}
}

// rowStep returns the width of a row's cells.
func (m *uniformMatrix) rowStep(r int) float32 {
	factor := float32(1)
	if m.rowFactor != nil {
		factor = m.rowFactor[r]
	}
	return m.q.RowStep(&m.stats[r], m.p.info.Cols, factor)
}

// setScale keeps the scale of a row.
func (m *uniformMatrix) setScale(r int, scale float32) {
	if m.q.Step > 0 {
		m.p.scales.RowScale[r] = gguf.FloatToF16(scale / m.q.Step * m.fold.row(m.p.info.Name, r))
	}
}

// setStep fixes κ.
func (m *uniformMatrix) setStep(kappa float64) {
	m.q.Step = float32(kappa * m.weight)
	m.p.scale = format.Scale{Kind: format.ScaleRow, Scale: m.q.Step}
}

// sampled returns the integers of the sample.
func (m *uniformMatrix) sampled() []int32 {
	out := make([]int32, len(m.sample))
	cols := m.p.info.Cols
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
func (m *uniformMatrix) entropy() float64 {
	classes := map[int][]uint32{}
	cols := m.p.info.Cols
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
	return bits / float64(len(m.sample)) * float64(m.p.weights())
}

// Targets of fit.
const (
	fitTolerance  = 0.002 // of the file's size, as expected before it is written
	fitTries      = 4
	guesses       = 3      // corrections by estimates alone, before the first pass
	refined       = 0.0001 // of the file's size: what is left to the last correction, which sees no exact histograms any more
	sizeTolerance = 0.004  // of the file's real size
	sizeMargin    = 0.0005 // of a limit: by which a file stays below it,
	minMargin     = 1024   // but at least so many bytes
)

// fit finds κ such that the file takes the bits asked for: first from the entropy and estimated cost of samples, then corrected by the
// exact histograms until it is within fitTolerance. It leaves all matrices ready to be encoded.
func (j *job) fit(settings map[string]any) (tables []*huffman.Table, err error) {
	if j.kappa == 0 {
		if err := j.measure(); err != nil {
			return nil, err
		}
	}
	var ms []*uniformMatrix
	for _, p := range j.plans {
		if m, ok := p.m.(*uniformMatrix); ok {
			ms = append(ms, m)
		}
	}
	if j.kappa == 0 {
		j.weigh(ms)
		if err := j.sortColumns(); err != nil {
			return nil, err
		}
	}
	if j.opt.Tuning.Kappa != 0 {
		return j.fixed(ms, settings)
	}
	// The bits left for matrices, and how many of them do not go into their entropy.
	target, off := j.target()-j.bias-8*float64(j.w.Size()+j.rawBytes()), 0.0
	for try := range guesses + fitTries {
		kappa, entropy := j.solve(ms, target-j.beyond)
		if len(ms) > 0 && kappa == 0 {
			return nil, fmt.Errorf("%g bits per weight are too few: without the weights' own entropy the file takes %.2f", j.opt.BPW, (j.target()-target+j.beyond)/float64(j.weights))
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
		j.beyond, off = bits-entropy, math.Abs(bits-target)/j.target()
		if tables != nil && off <= fitTolerance {
			break
		}
	}
	if off > refined { // tables and row orders are as good for steps so little different
		j.kappa, _ = j.solve(ms, target-j.beyond)
	}
	settings["kappa"], settings["bits_per_weight"] = j.kappa, j.opt.BPW
	return tables, nil
}

// fixed is fit for a κ that is given.
func (j *job) fixed(ms []*uniformMatrix, settings map[string]any) ([]*huffman.Table, error) {
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

// chooseAll chooses the coding of every matrix and returns the estimated bits of all levels. Error feedback makes codes a little longer; it is
// left out if feedback is false.
func (j *job) chooseAll(ms []*uniformMatrix, feedback bool) float64 {
	codec.Parallel(len(ms), func(i int) {
		sample := ms[i].sampled
		if feedback {
			sample = ms[i].feedSample
		}
		codes := sample()
		ms[i].p.choose(codes, codec.Candidates(codes))
	})
	bits := 0.0
	for _, m := range ms {
		bits += m.p.levelBits * float64(m.p.weights())
	}
	return bits
}

// solve finds the κ at which all matrices together take the given bits and returns it with their entropy; 0 if there is none.
func (j *job) solve(ms []*uniformMatrix, bits float64) (kappa, entropy float64) {
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
		codec.Parallel(len(ms), func(i int) {
			ms[i].setStep(kappa)
			parts[i] = ms[i].entropy()
		})
		for _, b := range parts {
			entropy += b
		}
		off := (entropy - bits) / float64(j.weights)
		if math.Abs(off) < 5e-4 {
			break
		}
		x += off
	}
	return kappa, entropy
}
