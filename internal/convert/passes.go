package convert

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// Sizes of the work on one tensor.
const (
	sampleWeights = 1 << 15 // weights looked at to choose a coding, at least
	sampleShare   = 200     // of larger matrices one weight in so many
	blockWeights  = 1 << 16 // weights read at once when measuring
)

// scratch is the memory of one worker.
type scratch struct {
	floats []float32
	ints   []int32
	row    []int32
	bits   []uint16
	blocks Blocks
}

// grow returns s with n elements of any content.
func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	return (*s)[:n]
}

// each calls f(0) … f(n−1) on all cores until one fails or the context ends. The error of the smallest i is returned, so that runs agree.
func (j *job) each(n int, f func(i int, s *scratch) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		at    = n
		next  int
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			s := &scratch{}
			for {
				mu.Lock()
				i, failed := next, first != nil
				next++
				mu.Unlock()
				if i >= n || failed {
					return
				}
				err := j.ctx.Err()
				if err == nil {
					err = f(i, s)
				}
				if err != nil {
					mu.Lock()
					if i < at {
						first, at = err, i
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}

// counter reports progress of one pass over the weights.
func (j *job) counter(stage string) func(n int64) {
	var mu sync.Mutex
	done := int64(0)
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		j.progress(stage, done, j.weights)
	}
}

// measure is the first pass: every matrix looks at as much of itself as it needs.
func (j *job) measure() error {
	count := j.counter("measure")
	for _, p := range j.plans {
		if p.m != nil {
			if err := p.m.measure(); err != nil {
				return fmt.Errorf("tensor %s: %w", p.info.Name, err)
			}
		}
		count(p.weights())
	}
	return nil
}

// statistics reads all of p and returns the statistics of its rows.
func (j *job) statistics(p *plan) ([]quant.RowStats, error) {
	stats := make([]quant.RowStats, p.info.Rows)
	rows := max(1, blockWeights/p.info.Cols)
	err := j.each((p.info.Rows+rows-1)/rows, func(i int, s *scratch) error {
		r0, r1 := i*rows, min(p.info.Rows, (i+1)*rows)
		w := grow(&s.floats, (r1-r0)*p.info.Cols)
		if err := j.src.ReadRows(p.index, r0, r1, w); err != nil {
			return err
		}
		for r := r0; r < r1; r++ {
			var ok bool
			if stats[r], ok = quant.Measure(w[(r-r0)*p.info.Cols : (r-r0+1)*p.info.Cols]); !ok {
				return quant.FiniteError(r)
			}
		}
		return nil
	})
	return stats, err
}

// sampleRows returns the rows that stand for all of p.
func (p *plan) sampleRows() []int {
	n := max(sampleWeights, p.weights()/sampleShare)
	return quant.Sample(p.info.Rows, int(n/int64(p.info.Cols))+1)
}

// sampleCodes returns the integers of the sample rows.
func (p *plan) sampleCodes() ([]int32, error) {
	var s scratch
	rows := p.sampleRows()
	out := make([]int32, len(rows)*p.info.Cols)
	for i, r := range rows {
		if err := p.m.rows(r, r+1, out[i*p.info.Cols:(i+1)*p.info.Cols], &s, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// choose sets the coding of p, the cheapest of the candidates for a sample of its integers, and returns the estimated bits per weight.
func (p *plan) choose(sample []int32, candidates []format.Coding) float64 {
	k, levelBits, bits := codec.Choose(sample, p.info.Cols, candidates, p.m.ready())
	k.RowsPerGroup = format.ChooseRowsPerGroup(p.info.Rows, p.info.Cols, levelBits)
	p.coding, p.levelBits = k, levelBits
	return bits
}

// sourceRow returns the source's row that is stored at position i.
func (p *plan) sourceRow(i int) int {
	if p.order != nil {
		i = int(p.order[i])
	}
	if p.rows != nil {
		i = int(p.rows[i])
	}
	return i
}

// codes reads the codes of the stored positions [p0, p1) into s.ints.
func (p *plan) codes(p0, p1 int, s *scratch, final bool) ([]int32, error) {
	cols := p.info.Cols
	out := grow(&s.ints, (p1-p0)*cols)
	for i := p0; i < p1; {
		r, n := p.sourceRow(i), 1
		for i+n < p1 && p.sourceRow(i+n) == r+n {
			n++
		}
		if err := p.m.rows(r, r+n, out[(i-p0)*cols:(i-p0+n)*cols], s, final); err != nil {
			return nil, err
		}
		i += n
	}
	if p.cols != nil {
		row := grow(&s.row, cols)
		for i := 0; i < len(out); i += cols {
			copy(row, out[i:i+cols])
			for c, from := range p.cols {
				out[i+c] = row[from]
			}
		}
	}
	if base := codec.Base(&p.coding); base != 0 && !p.m.ready() {
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
	for _, p := range j.plans {
		if p.m == nil {
			count(p.weights())
			continue
		}
		p.order = nil
		if err := p.begin(); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", p.info.Name, err)
		}
		t := codec.NewTrainer(p.info.Cols, p.coding, single)
		err := j.each(p.groups(), func(g int, s *scratch) error {
			p0, p1 := g*p.coding.RowsPerGroup, min(p.info.Rows, (g+1)*p.coding.RowsPerGroup)
			codes, err := p.codes(p0, p1, s, false)
			if err != nil {
				return err
			}
			count(int64(len(codes)))
			return t.Add(p0, codes)
		})
		p.end()
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", p.info.Name, err)
		}
		p.order = t.RowOrder()
		t.AddTo(bins)
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
	for _, p := range j.plans {
		if p.m == nil {
			err = j.writeRaw(p)
			count(p.weights())
		} else {
			err = j.encodeMatrix(p, pool, count)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", p.info.Name, err)
		}
	}
	return nil
}

func (j *job) encodeMatrix(p *plan, pool *codec.Pool, count func(int64)) error {
	e, err := codec.NewEncoder(pool, p.info.Rows, p.info.Cols, p.coding, p.scale, p.order)
	if err != nil {
		return err
	}
	p.m.allocate()
	if err := p.begin(); err != nil {
		return err
	}
	defer p.end()
	c := e.Coded()
	err = j.each(c.Groups(), func(g int, s *scratch) error {
		p0 := g * c.Coding.RowsPerGroup
		codes, err := p.codes(p0, p0+c.GroupRows(g), s, true)
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
	p.scales.RowScale, p.scales.ColScale = pick(p.scales.RowScale, p.rows), pick(p.scales.ColScale, p.cols)
	if err := p.scales.Store(c); err != nil {
		return err
	}
	p.scales = codec.Scales{}
	return j.w.Coded(p.info.Name, c)
}

// writeRaw stores a tensor as F32, or F16 and BF16 matrices as they are.
func (j *job) writeRaw(p *plan) error {
	n, rows := int(p.weights()), p.info.Rows
	out := &format.Raw{Rows: rows, Cols: p.info.Cols, DType: format.F32}
	if t := format.DType(p.info.Type); !p.info.Vector && (t == format.F16 || t == format.BF16) {
		bits := make([]uint16, n)
		if err := j.src.ReadBits16(p.index, 0, rows, bits); err != nil {
			return err
		}
		out.DType, out.Data = t, make([]byte, 0, 2*n)
		for _, b := range bits {
			out.Data = binary.LittleEndian.AppendUint16(out.Data, b)
		}
		return j.w.Raw(p.info.Name, out)
	}
	w := make([]float32, n)
	if err := j.src.ReadRows(p.index, 0, rows, w); err != nil {
		return err
	}
	out.Data = make([]byte, 0, 4*n)
	for i, x := range pick(w, p.cols) { // of vectors only
		if x-x != 0 {
			return quant.FiniteError(i / p.info.Cols)
		}
		out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(x))
	}
	return j.w.Raw(p.info.Name, out)
}
