package codec

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// classesPerBit is how finely rows are classed by the entropy of their levels. Within a class of this width one table costs
// less than 0.002 bits per weight more than a table for each row.
const classesPerBit = 8

// maxTables is the container's limit.
const maxTables = 256

// Trainer gathers what the choice of tables and of the row order of one matrix needs. Add may be called from several goroutines.
type Trainer struct {
	cols   int
	coding format.Coding
	single bool
	mu     sync.Mutex
	tile   int             // columns of a tile
	rows   map[int][]class // by the row's entropy class, per tile
	groups map[int][]class // by the entropy class of the group passed to Add, per tile
	class  []uint8         // entropy class of every row
	n      int             // rows added
}

// class collects the statistics of one tile of rows that will share a table.
type class struct {
	pairs  []uint64 // counts of symbols(levels)
	levels []uint64 // counts of levels+1
}

// NewTrainer starts a matrix of cols columns. With single set all rows are one class, so that one table results.
func NewTrainer(cols int, coding format.Coding, single bool) *Trainer {
	shape := format.Coded{Rows: 1, Cols: cols}
	return &Trainer{cols: cols, coding: coding, single: single, tile: shape.StepsPerTile() * format.StepCols,
		rows: map[int][]class{}, groups: map[int][]class{}}
}

// Add counts consecutive rows of codes, from row `first` on: in natural row order they would form one group.
func (t *Trainer) Add(first int, codes []int32) error {
	n := len(codes) / t.cols
	if n == 0 || n*t.cols != len(codes) {
		return fmt.Errorf("codec: %d codes are no rows of %d", len(codes), t.cols)
	}
	stride := t.cols + t.cols%2
	levels := make([]uint8, n*stride)
	splitLevels(levels, codes, &t.coding, t.cols, stride)
	group := t.newCounts()
	byClass := map[int][]counts{}
	rowLevels := make([]uint32, t.coding.Levels+1)
	rowClass := make([]uint8, n)
	for r := range n {
		row := levels[r*stride : (r+1)*stride]
		clear(rowLevels)
		for _, l := range row[:t.cols] {
			rowLevels[l]++
		}
		k := t.classOf(rowLevels)
		rowClass[r] = uint8(k)
		if byClass[k] == nil {
			byClass[k] = t.newCounts()
		}
		t.count(byClass[k], row)
	}
	all := make([]uint32, t.coding.Levels+1)
	for _, tiles := range byClass {
		for i := range tiles {
			group[i].add(&tiles[i])
			for l, n := range tiles[i].levels {
				all[l] += n
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if need := first + n - len(t.class); need > 0 {
		t.class = append(t.class, make([]uint8, need)...)
	}
	copy(t.class[first:], rowClass)
	t.n += n
	for k, c := range byClass {
		addTo(t.rows, k, c)
	}
	addTo(t.groups, t.classOf(all), group)
	return nil
}

// counts are a class's while they are collected.
type counts struct{ pairs, levels []uint32 }

// newCounts returns zeros for every tile.
func (t *Trainer) newCounts() []counts {
	tiles := make([]counts, (t.cols+t.tile-1)/t.tile)
	for i := range tiles {
		tiles[i] = counts{pairs: make([]uint32, symbols(t.coding.Levels)), levels: make([]uint32, t.coding.Levels+1)}
	}
	return tiles
}

// count adds a row, padded to an even number of columns.
func (t *Trainer) count(tiles []counts, row []uint8) {
	for i := range tiles {
		from, c := i*t.tile, &tiles[i]
		countPairs(c.pairs, row[from:min(from+t.tile, len(row))], t.coding.Levels)
		for _, l := range row[from:min(from+t.tile, t.cols)] {
			c.levels[l]++
		}
	}
}

func (c *counts) add(o *counts) {
	for i, n := range o.pairs {
		c.pairs[i] += n
	}
	for i, n := range o.levels {
		c.levels[i] += n
	}
}

func addTo(m map[int][]class, k int, tiles []counts) {
	if m[k] == nil {
		m[k] = make([]class, len(tiles))
	}
	for i, c := range tiles {
		to := &m[k][i]
		if to.pairs == nil {
			*to = class{pairs: make([]uint64, len(c.pairs)), levels: make([]uint64, len(c.levels))}
		}
		for j, n := range c.pairs {
			to.pairs[j] += uint64(n)
		}
		for j, n := range c.levels {
			to.levels[j] += uint64(n)
		}
	}
}

func (t *Trainer) classOf(levels []uint32) int {
	if t.single {
		return 0
	}
	return entropyClass(levels)
}

func entropyClass[T uint32 | uint64](levels []T) int {
	return int(math.Round(classesPerBit * Entropy(levels)))
}

// Entropy returns the empirical entropy of a histogram in bits per event.
func Entropy[T uint32 | uint64](hist []T) float64 {
	total, sum := 0.0, 0.0
	for _, n := range hist {
		if n > 0 {
			total += float64(n)
			sum += float64(n) * math.Log2(float64(n))
		}
	}
	if total == 0 {
		return 0
	}
	return max(0, math.Log2(total)-sum/total)
}

// classBits returns the entropy of the levels of all classes, in bits.
func classBits(m map[int][]class) float64 {
	total := 0.0
	for _, k := range SortedKeys(m) {
		for _, c := range m[k] {
			n := uint64(0)
			for _, v := range c.levels {
				n += v
			}
			total += float64(n) * Entropy(c.levels)
		}
	}
	return total
}

// SortedKeys returns the keys of m in ascending order.
func SortedKeys[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// LevelBits returns the entropy of the levels, in bits per weight.
func (t *Trainer) LevelBits() float64 { return classBits(t.groups) / float64(t.n*t.cols) }

// sorts tells whether storing rows by class saves more than the row order costs, the number of its class for each row.
func (t *Trainer) sorts() bool {
	order := float64(t.n * bits.Len(uint(len(t.rows)-1)))
	return classBits(t.rows)+order < classBits(t.groups)
}

// RowOrder returns the order in which rows should be stored, or nil for the natural one. Rows of a class keep their order.
func (t *Trainer) RowOrder() []uint32 {
	if !t.sorts() {
		return nil
	}
	order := make([]uint32, t.n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return int(t.class[a]) - int(t.class[b]) })
	return order
}

// AddTo passes the matrix's statistics on to b, as its row order will group them.
func (t *Trainer) AddTo(b *Bins) {
	m := t.groups
	if t.sorts() {
		m = t.rows
	}
	for k, tiles := range m {
		for _, c := range tiles {
			if len(tiles) > 1 && !t.single { // tiles differ where columns are sorted
				k = entropyClass(c.levels)
			}
			b.add(binKey{levels: t.coding.Levels, kind: kindOf(&t.coding), cost: costOf(&t.coding), class: k}, c.pairs)
		}
	}
}

func (b *Bins) add(key binKey, pairs []uint64) {
	h := b.hist[key]
	if h == nil {
		b.hist[key] = slices.Clone(pairs)
		return
	}
	for i, n := range pairs {
		h[i] += n
	}
}

// binKey separates what should not share a table without need.
type binKey struct {
	levels int
	kind   string // how codes become weights: distributions of different kinds have different shapes
	cost   uint64 // of an outlier
	class  int
}

func kindOf(k *format.Coding) string {
	return fmt.Sprintf("%s %d %d %d", k.Float, k.LowBits, k.Zero, len(k.Values))
}

// Bins collects pair histograms of a whole model by class and builds its code tables.
type Bins struct{ hist map[binKey][]uint64 }

// NewBins returns an empty collection.
func NewBins() *Bins { return &Bins{hist: map[binKey][]uint64{}} }

// Build makes the tables: one per bin, after bins that are too alike to pay for two tables have been merged. bits is the coded
// size of everything collected: code words and outliers, without padding.
func (b *Bins) Build() (bits uint64, tables []*huffman.Table, err error) {
	keys := make([]binKey, 0, len(b.hist))
	for k := range b.hist {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y binKey) int {
		switch {
		case x.levels != y.levels:
			return x.levels - y.levels
		case x.kind != y.kind && x.kind < y.kind:
			return -1
		case x.kind != y.kind:
			return 1
		}
		return x.class - y.class
	})
	var bins []*bin
	for _, k := range keys {
		bins = append(bins, newBin(k.levels, b.hist[k], k.cost))
	}
	bins = mergeBins(bins)
	coders := make([]*coder, len(bins))
	errs := make([]error, len(bins))
	parallel.Do(len(bins), func(i int) { coders[i], errs[i] = buildTable(bins[i].hist, bins[i].levels, bins[i].cost) })
	for i, c := range coders {
		if errs[i] != nil {
			return 0, nil, errs[i]
		}
		bits += c.total(bins[i].hist, outlierBits)
		tables = append(tables, c.table)
	}
	return bits, tables, nil
}
