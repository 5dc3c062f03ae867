package convert

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// Sizes of the work on one tensor.
const (
	sampleWeights = 1 << 15 // weights looked at to choose a coding, at least
	sampleShare   = 200     // in larger matrices, one weight in sampleShare
	blockWeights  = 1 << 16 // weights read at once when measuring
)

// scratch is the memory of one worker.
type scratch struct {
	floats []float32
	ints   []int32
	row    []int32
	bits   []uint16
	blocks source.Blocks
}

// grow returns s with n elements of any content.
func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	return (*s)[:n]
}

// counter reports progress of one pass over the weights.
func (w *work) counter(stage string) func(n int64) {
	var mu sync.Mutex
	done := int64(0)
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		w.progress(stage, done, w.weights)
	}
}

// measure is the first pass: every matrix looks at as much of itself as it needs.
func (j *job) measure() error {
	count := j.counter("measure")
	for _, t := range j.tensors {
		if t.quantizer != nil {
			if err := t.quantizer.measure(); err != nil {
				return fmt.Errorf("tensor %s: %w", t.info.Name, err)
			}
		}
		count(t.weights())
	}
	return nil
}

// statistics reads all of t and returns the statistics of its rows.
func (j *job) statistics(t *tensorJob) ([]quant.RowStats, error) {
	stats := make([]quant.RowStats, t.info.Rows)
	rows := max(1, blockWeights/t.info.Cols)
	err := parallel.Each(j.ctx, (t.info.Rows+rows-1)/rows, func(i int, s *scratch) error {
		r0, r1 := i*rows, min(t.info.Rows, (i+1)*rows)
		w := grow(&s.floats, (r1-r0)*t.info.Cols)
		if err := j.src.ReadRows(t.index, r0, r1, w); err != nil {
			return err
		}
		for r := r0; r < r1; r++ {
			var ok bool
			if stats[r], ok = quant.Measure(w[(r-r0)*t.info.Cols : (r-r0+1)*t.info.Cols]); !ok {
				return quant.FiniteError(r)
			}
			if most := max(stats[r].Max, -stats[r].Min); most > quant.MaxWeight {
				return quant.RangeError(r, most)
			}
		}
		return nil
	})
	return stats, err
}

// sampleRows returns the rows that stand for all of t.
func (t *tensorJob) sampleRows() []int {
	n := max(sampleWeights, t.weights()/sampleShare)
	return quant.Sample(t.info.Rows, int(n/int64(t.info.Cols))+1)
}

// sampleQValues returns the integers of the sample rows.
func (t *tensorJob) sampleQValues() ([]int32, error) {
	var s scratch
	rows := t.sampleRows()
	out := make([]int32, len(rows)*t.info.Cols)
	for i, r := range rows {
		if err := t.quantizer.rows(r, r+1, out[i*t.info.Cols:(i+1)*t.info.Cols], &s, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// choose sets the coding of t, the cheapest of the candidates for a sample of its integers, and returns the estimated bits per
// weight.
func (t *tensorJob) choose(sample []int32, candidates []format.Coding) float64 {
	k, levelBits, bits := codec.Choose(sample, t.info.Cols, candidates, t.quantizer.qvaluesAreFinal())
	k.RowsPerGroup = format.ChooseRowsPerGroup(t.info.Rows, t.info.Cols, levelBits)
	t.coding, t.levelBits = k, levelBits
	return bits
}

// sourceRow returns the source's row that is stored at position i.
func (t *tensorJob) sourceRow(i int) int {
	if t.order != nil {
		i = int(t.order[i])
	}
	if t.rows != nil {
		i = int(t.rows[i])
	}
	return i
}

// codes reads the codes of the stored positions [p0, p1) into s.ints.
func (t *tensorJob) qvalues(p0, p1 int, s *scratch, final bool) ([]int32, error) {
	cols := t.info.Cols
	out := grow(&s.ints, (p1-p0)*cols)
	for i := p0; i < p1; {
		r, n := t.sourceRow(i), 1
		for i+n < p1 && t.sourceRow(i+n) == r+n {
			n++
		}
		if err := t.quantizer.rows(r, r+n, out[(i-p0)*cols:(i-p0+n)*cols], s, final); err != nil {
			return nil, err
		}
		i += n
	}
	if t.cols != nil {
		row := grow(&s.row, cols)
		for i := 0; i < len(out); i += cols {
			copy(row, out[i:i+cols])
			for c, from := range t.cols {
				out[i+c] = row[from]
			}
		}
	}
	if base := codec.Base(&t.coding); base != 0 && !t.quantizer.qvaluesAreFinal() {
		for i := range out {
			out[i] -= base
		}
	}
	return out, nil
}

// train is the second pass: it fixes the row order of every matrix and collects what the tables are built from.
func (j *job) train() (*codec.Bins, error) {
	bins := codec.NewBins()
	count := j.counter("count")
	single := j.opt.Scheme == SchemePaperU8 || j.opt.Scheme == SchemePaperU4 || j.opt.Tuning.NoRowClasses
	for _, t := range j.tensors {
		if t.quantizer == nil {
			count(t.weights())
			continue
		}
		t.order = nil
		if err := t.begin(); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.info.Name, err)
		}
		trainer := codec.NewTrainer(t.info.Cols, t.coding, single)
		err := parallel.Each(j.ctx, t.groups(), func(g int, s *scratch) error {
			p0, p1 := g*t.coding.RowsPerGroup, min(t.info.Rows, (g+1)*t.coding.RowsPerGroup)
			codes, err := t.qvalues(p0, p1, s, false)
			if err != nil {
				return err
			}
			count(int64(len(codes)))
			return trainer.Add(p0, codes)
		})
		t.end()
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.info.Name, err)
		}
		t.order = trainer.RowOrder()
		trainer.AddTo(bins)
	}
	return bins, nil
}

// encode is the last pass: it codes every tensor and writes it.
func (j *job) encode(tables []*huffman.Table) error {
	pool, err := codec.NewPool(tables)
	if err != nil {
		return err
	}
	count := j.counter("encode")
	for _, t := range j.tensors {
		if t.quantizer == nil {
			err = j.writeRaw(t)
			count(t.weights())
		} else {
			err = j.encodeMatrix(t, pool, count)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.info.Name, err)
		}
	}
	return nil
}

func (j *job) encodeMatrix(t *tensorJob, pool *codec.Pool, count func(int64)) error {
	e, err := codec.NewEncoder(pool, t.info.Rows, t.info.Cols, t.coding, t.scale, t.order)
	if err != nil {
		return err
	}
	t.quantizer.allocate()
	if err := t.begin(); err != nil {
		return err
	}
	defer t.end()
	c := e.Coded()
	err = parallel.Each(j.ctx, c.Groups(), func(g int, s *scratch) error {
		p0 := g * c.Coding.RowsPerGroup
		codes, err := t.qvalues(p0, p0+c.GroupRows(g), s, true)
		if err != nil {
			return err
		}
		count(int64(len(codes)))
		return e.Group(g, codes)
	})
	if err != nil {
		return err
	}
	if c, err = e.Finish(); err != nil {
		return err
	}
	t.scales.RowScale, t.scales.ColScale = permuted(t.scales.RowScale, t.rows), permuted(t.scales.ColScale, t.cols)
	if err := t.scales.Store(c); err != nil {
		return err
	}
	t.scales = codec.Scales{}
	return j.w.Coded(t.info.Name, c)
}

// writeRaw stores a tensor as F32, or F16 and BF16 matrices as they are.
func (j *job) writeRaw(t *tensorJob) error {
	n, rows := int(t.weights()), t.info.Rows
	out := &format.Raw{Rows: rows, Cols: t.info.Cols, DType: format.F32}
	if dtype := format.DType(t.info.Type); !t.info.Vector && (dtype == format.F16 || dtype == format.BF16) {
		bits := make([]uint16, n)
		if err := j.src.ReadBits16(t.index, 0, rows, bits); err != nil {
			return err
		}
		out.DType, out.Data = dtype, make([]byte, 0, 2*n)
		for _, b := range bits {
			out.Data = binary.LittleEndian.AppendUint16(out.Data, b)
		}
		return j.w.Raw(t.info.Name, out)
	}
	w := make([]float32, n)
	if err := j.src.ReadRows(t.index, 0, rows, w); err != nil {
		return err
	}
	out.Data = make([]byte, 0, 4*n)
	for i, x := range permuted(w, t.cols) { // of vectors only
		if x-x != 0 {
			return quant.FiniteError(i / t.info.Cols)
		}
		out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(x))
	}
	return j.w.Raw(t.info.Name, out)
}
