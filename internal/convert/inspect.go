package convert

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// settingRescaled is set in format.Meta.Quantizer of a file whose columns have other scales, or another order, than the source's.
const settingRescaled = "rescaled"

// Sizes splits the bits of coded weights by purpose. All numbers are bytes.
type Sizes struct {
	Codes    int64 `json:"codes"`     // of code strings
	LowBits  int64 `json:"low_bits"`  // raw bits below the levels
	Padding  int64 `json:"padding"`   // of both to whole words and chunks
	Outliers int64 `json:"outliers"`  // weights outside the alphabet
	Index    int64 `json:"index"`     // lane directories, tables' numbers, gaps
	RowOrder int64 `json:"row_order"` // where rows were sorted
	Scales   int64 `json:"scales"`    // of rows, columns and blocks
	Raw      int64 `json:"raw"`       // tensors that are not coded
}

func (s *Sizes) add(o *Sizes) {
	s.Codes += o.Codes
	s.LowBits += o.LowBits
	s.Padding += o.Padding
	s.Outliers += o.Outliers
	s.Index += o.Index
	s.RowOrder += o.RowOrder
	s.Scales += o.Scales
	s.Raw += o.Raw
}

func (s *Sizes) total() int64 {
	return s.Codes + s.LowBits + s.Padding + s.Outliers + s.Index + s.RowOrder + s.Scales + s.Raw
}

// TensorReport describes one tensor of a container.
type TensorReport struct {
	Name          string  `json:"name"`
	Rows          int     `json:"rows"`
	Cols          int     `json:"cols"`
	Kind          string  `json:"kind"`             // element type if not coded, else "coded"
	Scale         string  `json:"scale,omitempty"`  // of coded tensors: tensor, row, block or none
	Levels        int     `json:"levels,omitempty"` // of coded tensors
	LowBitsEach   int     `json:"low_bits_per_weight"`
	RowsPerGroup  int     `json:"rows_per_group,omitempty"`
	Sorted        bool    `json:"sorted"` // rows are stored in another order
	Bytes         Sizes   `json:"bytes"`
	BitsPerWeight float64 `json:"bits_per_weight"` // everything of the tensor
	// Entropy is, in bits per weight, that of the levels (the integers above the low bits, outliers included), for every code table
	// over all weights of the file that it codes, plus the low bits. A tensor's value is the mean information of its own levels in
	// those distributions.
	Entropy float64 `json:"entropy,omitempty"`
	// OverEntropy tells by how many percent everything but scales exceeds Entropy; in the totals code tables are included.
	OverEntropy float64  `json:"over_entropy_percent,omitempty"`
	SQNR        *float64 `json:"sqnr_db,omitempty"` // against the reference; absent without one, or if there is no difference
}

// InspectReport describes a container.
type InspectReport struct {
	Path      string         `json:"path"`
	Scheme    string         `json:"scheme"`
	Source    string         `json:"source"`
	Quantizer map[string]any `json:"quantizer,omitempty"`
	Tensors   []TensorReport `json:"tensors"`
	Total     TensorReport   `json:"total"`       // of all tensors; Rows, Cols and the like are absent
	Coded     int64          `json:"coded"`       // weights in coded tensors
	Weights   int64          `json:"weights"`     // in all tensors
	TableSize int64          `json:"table_bytes"` // of all code tables
	Tables    int            `json:"tables"`
	// OtherBytes is what the file holds beside tensors and code tables: tokenizer, metadata, indexes, gaps between sections.
	OtherBytes int64 `json:"other_bytes"`
	FileBytes  int64 `json:"file_bytes"` // = Total.Bytes + TableSize + OtherBytes
	// EntropyBytes = Total.Entropy over all coded weights: what an ideal entropy coder with these tables' distributions would need.
	EntropyBytes int64 `json:"entropy_bytes"`
	// FileOverEntropy tells by how many percent the whole file exceeds that.
	FileOverEntropy float64 `json:"file_over_entropy_percent"`
	// BitsPerWeight is the whole file's.
	BitsPerWeight float64 `json:"bits_per_weight"`
	// SingleSymbol is what one Huffman code of single integers for the whole model would take, as in EntroLLM, in bits per coded
	// weight, without padding and scales. It has no limit on code lengths and no table size.
	SingleSymbol float64 `json:"single_symbol_huffman"`
}

// census counts what the codes of one tensor are.
type census struct {
	mu     sync.Mutex
	levels map[uint8][]uint64 // table → counts of levels, see levelBin
	codes  []uint64           // counts of whole integers, shared by all tensors
	bits   int64              // of code strings
	noise  float64
	signal float64
}

const (
	levelBins = 1 << 10 // levels −levelBins/2 … levelBins/2 − 1 are counted one by one
	codeBins  = 1 << 17 // likewise integers
)

func clampBin(x int32, bins int) int { return min(max(int(x)+bins/2, 0), bins-1) }

// Inspect decodes everything in r and measures it. With a reference, the source that r was made from, weights are compared with
// its, if they can be.
func Inspect(ctx context.Context, r *format.Reader, reference source.Model, progress Progress) (*InspectReport, error) {
	if reference != nil && r.Meta().Quantizer[settingRescaled] == true {
		return nil, fmt.Errorf("%s: its columns were rescaled and sorted when it was made, so its single weights are not those of "+
			"%s (compress prints the signal-to-noise ratio; eval kld --reference compares what both predict)",
			r.Path(), reference.Path())
	}
	rep := &InspectReport{Path: r.Path(), Scheme: r.Meta().Scheme, Source: r.Meta().Source, Quantizer: r.Meta().Quantizer,
		Tables: len(r.Tables()), FileBytes: r.FileSize()}
	v, err := newVisit(ctx, r, progress)
	if err != nil {
		return nil, err
	}
	v.reference = reference
	counts, codes := make([]*census, len(r.Tensors())), make([]uint64, codeBins)
	for i, t := range r.Tensors() {
		counts[i] = &census{levels: map[uint8][]uint64{}, codes: codes}
		if err := r.Guard(func() error { return v.tensor(t, counts[i]) }); err != nil {
			return nil, err
		}
		rep.Tensors = append(rep.Tensors, describe(t, counts[i].bits))
		rep.Weights += int64(t.Rows) * int64(t.Cols)
	}
	for _, t := range r.Tables() {
		rep.TableSize += int64(2 + (t.Levels*t.Levels+1)/2)
	}
	rep.entropies(counts)
	if rep.Coded > 0 {
		rep.SingleSymbol = float64(codec.HuffmanBits(codes)) / float64(rep.Coded)
	}
	rep.BitsPerWeight = 8 * float64(rep.FileBytes) / float64(rep.Weights)
	rep.OtherBytes = rep.FileBytes - rep.TableSize - rep.Total.Bytes.total()
	return rep, nil
}

// describe fills in what the sizes of parts tell, with the bits of all code strings.
func describe(t *format.Tensor, codeBits int64) TensorReport {
	x := TensorReport{Name: t.Name, Rows: t.Rows, Cols: t.Cols, Kind: "coded"}
	b := &x.Bytes
	if c := t.Coded; c != nil {
		x.Scale, x.Levels, x.LowBitsEach = string(c.Scale.Kind), c.Coding.Levels, c.Coding.LowBits
		x.RowsPerGroup, x.Sorted = c.Coding.RowsPerGroup, c.RowOrder != nil
		b.Codes = (codeBits + 7) / 8
		b.LowBits = (int64(t.Rows)*int64(t.Cols)*int64(c.Coding.LowBits) + 7) / 8
		b.Padding = 4*int64(len(c.Stream)+len(c.Low)) - b.Codes - b.LowBits
		b.Outliers, b.RowOrder = t.Parts["outliers"][1], t.Parts["row_order"][1]
		b.Scales = 2*int64(len(c.RowScale)+len(c.D)+len(c.DMin)) + int64(len(c.SubScale)+len(c.SubMin)) + 4*int64(len(c.ColScale))
		b.Index = t.Bytes - b.total()
	} else {
		x.Kind, b.Raw = string(t.Raw.DType), t.Bytes
	}
	x.BitsPerWeight = 8 * float64(t.Bytes) / (float64(t.Rows) * float64(t.Cols))
	return x
}

// entropies computes everything that follows from the counts.
func (rep *InspectReport) entropies(counts []*census) {
	byTable := make([][]uint64, 256)
	for _, c := range counts {
		for k, h := range c.levels {
			if byTable[k] == nil {
				byTable[k] = make([]uint64, levelBins)
			}
			for i, n := range h {
				byTable[k][i] += n
			}
		}
	}
	total, noise, signal := &rep.Total, 0.0, 0.0
	total.Name, total.Kind = "total", "all"
	bits := 0.0
	for i := range rep.Tensors {
		x, c := &rep.Tensors[i], counts[i]
		total.Bytes.add(&x.Bytes)
		noise, signal = noise+c.noise, signal+c.signal
		x.SQNR = decibel(c.signal, c.noise)
		if len(c.levels) == 0 {
			continue
		}
		n := float64(x.Rows) * float64(x.Cols)
		rep.Coded += int64(x.Rows) * int64(x.Cols)
		own := n * float64(x.LowBitsEach)
		for k, all := range byTable {
			own += information(c.levels[uint8(k)], all)
		}
		bits += own
		x.Entropy = own / n
		x.OverEntropy = percentOver(8*(x.Bytes.total()-x.Bytes.Scales), own)
	}
	total.SQNR = decibel(signal, noise)
	total.BitsPerWeight = 8 * float64(total.Bytes.total()) / float64(rep.Weights)
	if rep.Coded > 0 {
		total.Entropy = bits / float64(rep.Coded)
		rep.EntropyBytes = int64(math.Ceil(bits / 8))
		rep.FileOverEntropy = percentOver(8*rep.FileBytes, bits)
		total.OverEntropy = percentOver(8*(total.Bytes.total()-total.Bytes.Scales-total.Bytes.Raw+rep.TableSize), bits)
	}
}

// information returns the bits of events counted in own, at the probabilities given by all.
func information(own, all []uint64) float64 {
	total, sum := 0.0, 0.0
	for _, n := range all {
		total += float64(n)
	}
	for i, n := range own {
		if n > 0 {
			sum -= float64(n) * math.Log2(float64(all[i])/total)
		}
	}
	return sum
}

func percentOver(stored int64, entropy float64) float64 {
	if entropy == 0 {
		return 0
	}
	return 100 * (float64(stored)/entropy - 1)
}

func decibel(signal, noise float64) *float64 {
	if noise == 0 || signal == 0 {
		return nil
	}
	x := 10 * math.Log10(signal/noise)
	return &x
}
