package gpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// spec describes a random coded matrix.
type spec struct {
	rows, cols   int
	rowsPerGroup int
	levels       int
	lowBits      int
	zero         int32
	values       bool
	float        format.FloatKind
	maxLen       int
	scale        format.Scale
	dMin, subMin bool
	noSub        bool // sub-minima without sub-scales
	exact        bool // scales are powers of two
	rowOrder     bool
	colScale     bool
	outliers     int  // entries per group
	far          bool // some of them are beyond 16 bits
	narrow       bool // levels far from the middle are rare
}

// randomMatrix is a coded matrix together with what it must decode to.
type randomMatrix struct {
	coded  *format.Coded
	codes  [][]int32   // [stored row][col]; for floats: bits
	values [][]float32 // [row][col], scales applied
}

// builder makes coded matrices that share code tables.
type builder struct {
	t      *testing.T
	rng    *rand.Rand
	tables []*huffman.Table
	kinds  int // tables of a matrix, which its chunks take in turn
}

func newBuilder(t *testing.T, seed uint64) *builder {
	return &builder{t: t, rng: rand.New(rand.NewPCG(seed, 2)), kinds: 3}
}

// bell returns a level around the middle of the alphabet, sometimes far from it.
func (b *builder) bell(s spec) int {
	levels, width := s.levels, 6.0
	if s.narrow {
		width = 12
	}
	x := int(math.Round(b.rng.NormFloat64()*float64(levels)/width + float64(levels-1)/2))
	return max(0, min(levels-1, x))
}

// build makes a random matrix. Its chunks take b.kinds tables in turn.
func (b *builder) build(s spec) *randomMatrix {
	c := &format.Coded{Rows: s.rows, Cols: s.cols, Scale: s.scale, Coding: format.Coding{
		RowsPerGroup: s.rowsPerGroup, Levels: s.levels, LowBits: s.lowBits, Zero: s.zero, Float: s.float}}
	if s.values {
		c.Coding.Values = make([]int16, s.levels)
		for i := range c.Coding.Values {
			c.Coding.Values[i] = int16(b.rng.IntN(255) - 127)
		}
	}
	stride := c.Steps() * format.StepCols
	levels := make([]uint8, s.rows*stride)
	for i := range levels {
		levels[i] = uint8(b.bell(s))
	}
	low := make([]uint16, s.rows*stride)
	for i := range low {
		low[i] = uint16(b.rng.IntN(1 << s.lowBits))
	}
	b.encode(c, levels, stride, s.maxLen)
	if s.lowBits > 0 {
		packLow(c, low, stride)
	}
	b.addOutliers(c, s.outliers, s.far)
	b.addScales(c, s)
	if s.rowOrder {
		for _, r := range b.rng.Perm(s.rows) {
			c.RowOrder = append(c.RowOrder, uint32(r))
		}
	}
	m := &randomMatrix{coded: c, codes: codesOf(c, levels, low, stride)}
	m.values = valuesOf(c, m.codes)
	return m
}

// kind tells which of a matrix's tables codes a chunk: in every tile others, and the same for one to four groups next to each
// other.
func (b *builder) kind(group, tile int) int { return (group/2 + group/5 + tile) % b.kinds }

func (b *builder) encode(c *format.Coded, levels []uint8, stride, maxLen int) {
	if maxLen == 0 {
		maxLen = huffman.MaxCodeLen
	}
	kinds := b.buildTables(c, levels, stride, maxLen)
	for g := range c.Groups() {
		for k := range c.Tiles() {
			table := kinds[b.kind(g, k)]
			c.ChunkTable = append(c.ChunkTable, uint8(table))
			c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
			at := g*c.Coding.RowsPerGroup*stride + k*c.StepsPerTile()*format.StepCols
			words, m, tail, err := b.tables[table].EncodeChunk(c.Stream, levels[at:], stride, c.TileSteps(k), c.GroupRows(g))
			require.NoError(b.t, err)
			for len(words)%8 != 0 {
				words = append(words, 0)
			}
			c.Stream = words
			c.MainWords = append(c.MainWords, uint16(m))
			c.LaneTail = append(c.LaneTail, tail[:]...)
		}
	}
	c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
	c.Stream = append(c.Stream, make([]uint32, c.GuardWords())...)
}

// buildTables makes a table for the chunks of each kind that there are, and returns which.
func (b *builder) buildTables(c *format.Coded, levels []uint8, stride, maxLen int) map[int]int {
	hists := make([][]uint64, b.kinds)
	for g := range c.Groups() {
		for k := range c.Tiles() {
			kind := b.kind(g, k)
			if hists[kind] == nil {
				hists[kind] = make([]uint64, c.Coding.Levels*c.Coding.Levels)
			}
			for r := range c.GroupRows(g) {
				row := levels[(g*c.Coding.RowsPerGroup+r)*stride+k*c.StepsPerTile()*format.StepCols:][:c.TileSteps(k)*format.StepCols]
				for i := 0; i < len(row); i += 2 {
					hists[kind][int(row[i])*c.Coding.Levels+int(row[i+1])]++
				}
			}
		}
	}
	tables := map[int]int{}
	for kind, hist := range hists {
		if hist == nil {
			continue
		}
		t, err := huffman.Build(hist, c.Coding.Levels, maxLen)
		require.NoError(b.t, err)
		tables[kind] = len(b.tables)
		b.tables = append(b.tables, t)
	}
	return tables
}

// packLow writes part `low` (docs/format.md, 6.4).
func packLow(c *format.Coded, low []uint16, stride int) {
	c.Low = make([]uint32, c.LowOffset(c.Groups(), 0))
	s := c.Coding.LowBits
	for g := range c.Groups() {
		for k := range c.Tiles() {
			base := c.LowOffset(g, k)
			for lane := range huffman.Lanes {
				bit := 0
				for r := range c.GroupRows(g) {
					for j := range c.TileSteps(k) {
						col := (k*c.StepsPerTile()+j)*format.StepCols + 2*lane
						for i := range 2 {
							v := low[(g*c.Coding.RowsPerGroup+r)*stride+col+i]
							for n := range s {
								c.Low[base+huffman.Lanes*((bit+n)/32)+lane] |= uint32(v>>n&1) << ((bit + n) % 32)
							}
							bit += s
						}
					}
				}
			}
		}
	}
}

func (b *builder) addOutliers(c *format.Coded, perGroup int, far bool) {
	if perGroup == 0 {
		return
	}
	c.OutlierStart = []uint32{0}
	for g := range c.Groups() {
		rows := c.GroupRows(g)
		seen := map[int]bool{}
		var at []int
		for range perGroup {
			p := b.rng.IntN(rows * c.Cols)
			if !seen[p] {
				seen[p] = true
				at = append(at, p)
			}
		}
		for i := range at { // insertion sort by (row, column)
			for j := i; j > 0 && at[j] < at[j-1]; j-- {
				at[j], at[j-1] = at[j-1], at[j]
			}
		}
		for i, p := range at {
			o := format.Outlier{Row: p / c.Cols, Col: p % c.Cols, Delta: 1 + b.rng.IntN(7)}
			if b.rng.IntN(2) == 0 {
				o.Delta = -o.Delta
			}
			entries := 1
			if i == 0 { // a large one is split over several entries
				entries = 2
				if far {
					entries, o.Delta = 20, 127-254*(len(c.OutlierStart)%2)
				}
			}
			for range entries {
				c.Outliers = append(c.Outliers, format.PackOutlier(o))
			}
		}
		c.OutlierStart = append(c.OutlierStart, uint32(len(c.Outliers)))
	}
}

// half returns a random float16, a power of two if exact.
func (b *builder) half(exact bool, magnitude float64) uint16 {
	if exact {
		return float16.Fromfloat32(float32(math.Ldexp(1, b.rng.IntN(3)-1))).Bits()
	}
	return float16.Fromfloat32(float32(magnitude * (0.5 + b.rng.Float64()))).Bits()
}

func (b *builder) addScales(c *format.Coded, s spec) {
	if s.colScale {
		for range s.cols {
			v := float32(0.5 + b.rng.Float64())
			if s.exact {
				v = float32(math.Ldexp(1, b.rng.IntN(2)))
			}
			c.ColScale = append(c.ColScale, v)
		}
	}
	switch s.scale.Kind {
	case format.ScaleRow:
		for range s.rows {
			c.RowScale = append(c.RowScale, b.half(s.exact, 1))
		}
	case format.ScaleBlock:
		for range s.rows * s.cols / s.scale.Super {
			c.D = append(c.D, b.half(s.exact, 0.001))
			if s.dMin {
				c.DMin = append(c.DMin, b.half(s.exact, 0.001))
			}
		}
		n := (s.rows*(s.cols/s.scale.Block)*s.scale.SubBits + 7) / 8
		if s.scale.SubBits > 0 && !s.noSub {
			c.SubScale = make([]byte, n)
			for i := range c.SubScale {
				c.SubScale[i] = byte(b.rng.Uint32())
			}
		}
		if s.subMin {
			c.SubMin = make([]byte, n)
			for i := range c.SubMin {
				c.SubMin[i] = byte(b.rng.Uint32())
			}
		}
	}
}

// codesOf applies docs/format.md 6.2 and 6.5.
func codesOf(c *format.Coded, levels []uint8, low []uint16, stride int) [][]int32 {
	k := &c.Coding
	delta := map[[2]int]int32{}
	for g := range c.Groups() {
		if c.OutlierStart == nil {
			break
		}
		for _, v := range c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]] {
			o := format.UnpackOutlier(v)
			delta[[2]int{g*k.RowsPerGroup + o.Row, o.Col}] += int32(o.Delta)
		}
	}
	codes := make([][]int32, c.Rows)
	for i := range codes {
		codes[i] = make([]int32, c.Cols)
		for j := range codes[i] {
			a, lo := int32(levels[i*stride+j]), int32(low[i*stride+j])
			a += delta[[2]int{i, j}]
			switch {
			case len(k.Values) > 0:
				codes[i][j] = int32(k.Values[a])
			case k.Float != format.NotFloat:
				mantissa := k.LowBits - 1
				codes[i][j] = (lo>>mantissa)<<15 | (k.Zero+a)<<mantissa | lo&(1<<mantissa-1)
			default:
				codes[i][j] = k.Zero + (a<<k.LowBits | lo)
				if a < 0 {
					codes[i][j] = k.Zero + a*(1<<k.LowBits) + lo
				}
			}
		}
	}
	return codes
}

// bitsAt reads n bits, LSB first, of item i of a packed array.
func bitsAt(b []byte, i, n int) int {
	v := 0
	for k := range n {
		bit := i*n + k
		v |= int(b[bit/8]>>(bit%8)&1) << k
	}
	return v
}

// valuesOf applies docs/format.md 6.6.
func valuesOf(c *format.Coded, codes [][]int32) [][]float32 {
	f16 := func(v uint16) float32 { return float16.Frombits(v).Float32() }
	w := make([][]float32, c.Rows)
	for i := range codes {
		row := make([]float32, c.Cols)
		w[c.Row(i)] = row
		for j, q := range codes[i] {
			switch s := &c.Scale; s.Kind {
			case format.ScaleTensor:
				row[j] = s.Scale*float32(q) + s.Min
			case format.ScaleRow:
				row[j] = s.Scale * f16(c.RowScale[i]) * float32(q)
			case format.ScaleNone:
				row[j] = f16(uint16(q))
				if c.Coding.Float == format.FloatBF16 {
					row[j] = math.Float32frombits(uint32(q) << 16)
				}
			case format.ScaleBlock:
				super, block := (i*c.Cols+j)/s.Super, (i*c.Cols+j)/s.Block
				sub, subMin := 1, 1
				if c.SubScale != nil {
					sub = bitsAt(c.SubScale, block, s.SubBits)
					if s.SubBits == 8 {
						sub = int(int8(sub))
					}
					sub += s.SubBias
				}
				if c.SubMin != nil {
					subMin = bitsAt(c.SubMin, block, s.SubBits)
				}
				row[j] = f16(c.D[super]) * float32(sub) * float32(q)
				if c.DMin != nil {
					row[j] += f16(c.DMin[super]) * float32(subMin)
				}
			}
			if c.ColScale != nil {
				row[j] *= c.ColScale[j]
			}
		}
	}
	return w
}
