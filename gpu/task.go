package gpu

import (
	"strings"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Estimates of what kernels execute beyond their main loops, in instructions of a lane.
const (
	tableEntryCost = 14 // to bring an entry of a code table to shared memory
	outlierCost    = 40 // to multiply with an outlier or a remainder, other lanes waiting
	findCost       = 80 // to find those of a row
	// gemvRounds is how many loads of a product wait for each other: the task, the matrix, its parts, weights, the row's place.
	gemvRounds = 8
)

// task returns what a launch has to do with w.
func (w *weight) task(kernel string, grid driver.Dim, args []uint64) predict.Task {
	t := predict.Task{Tensor: w.Name}
	all := float64(w.Rows) * float64(w.Cols)
	switch {
	case strings.HasPrefix(kernel, "gemv_"):
		t.Kernel, t.Products, t.Bytes = kernelTable[w.product.gemv].name, all, w.readBytes(w.form)
		w.aroundProduct(&t)
		for _, v := range []*float64{&t.Products, &t.Bytes, &t.Runs, &t.Other} {
			*v *= float64(grid.Y)
		}
	case strings.HasPrefix(kernel, "gemm_") && len(args) > 7: // arguments: matrix, data, first row, rows, x, prepared x, its stride, tokens
		// Whole tiles are computed, as far as tokens of a warp are wanted.
		unit := w.product.gemmUnit
		rows, tokens := grid.X*w.product.gemmRows, ceilDiv(int(args[7]), unit)*unit
		t.Products, t.Bytes = float64(rows)*float64(w.Cols)*float64(tokens), float64(w.planeBytes(1))*float64(args[3])*float64(grid.Y)
	case strings.HasPrefix(kernel, "unpack_codes_") && len(args) > 2: // arguments: matrix, first quad, quads
		w.toPlane(&t, formPacked, min(int(args[2])*quadRows, w.Rows), 1)
	case strings.HasPrefix(kernel, "decode_chunks_") && len(args) > 2: // arguments: matrix, first group, groups
		first, n := int(int32(args[1])), int(int32(args[2]))
		w.toPlane(&t, formCoded, min(n*w.Coded.Coding.RowsPerGroup, w.Rows), w.Coded.Tiles())
		t.Other += w.tableCost(decodeLoads(w.Coded, first, n, grid.X))
	}
	return t
}

// aroundProduct fills in what a product of one vector does besides its main loop.
func (w *weight) aroundProduct(t *predict.Task) {
	const lanes = 32
	rows := float64(w.Rows)
	switch w.form {
	case formPacked:
		t.Runs = float64(ceilDiv(w.Rows, quadRows)) * float64(w.desc.RowLanes)
		t.Other = w.packed.expected * outlierCost
	case formCoded:
		t.Runs = lanes * rows * float64(w.Coded.Tiles())
		t.Other = w.tableCost(fusedLoads(w.Coded, w.product.gemvGrid))
		if n := len(w.Coded.Outliers); n > 0 {
			t.Other += findCost*rows + outlierCost*float64(n)
		}
	default:
		t.Runs = lanes * rows
	}
}

// tableCost returns what bringing code tables to shared memory costs, in instructions of a lane.
func (w *weight) tableCost(loads int) float64 {
	return float64(loads) * float64(int(1)<<w.desc.MaxLen) * tableEntryCost
}

// fusedLoads counts the tables that the blocks of a fused product load, in the order of cuda/fused.cuh.
func fusedLoads(c *format.Coded, blocks int) int {
	loads, groups, tiles := 0, c.Groups(), c.Tiles()
	for b := range blocks {
		loaded, end := -1, groups*(b+1)/blocks
		for g := groups * b / blocks; g < end; g += gemvWarps {
			for k := range tiles {
				for i := g; i < min(g+gemvWarps, end); i++ {
					if t := int(c.ChunkTable[i*tiles+k]); t != loaded {
						loads, loaded = loads+1, t
					}
				}
			}
		}
	}
	return loads
}

// decodeLoads counts the tables that the blocks of decode_chunks_* load for n groups: each block takes a range of chunks, numbered tile by tile.
func decodeLoads(c *format.Coded, first, n, blocks int) int {
	loads, chunks := 0, n*c.Tiles()
	for b := range blocks {
		loaded := -1
		for i := chunks * b / blocks; i < chunks*(b+1)/blocks; i++ {
			if t := int(c.ChunkTable[(first+i%n)*c.Tiles()+i/n]); t != loaded {
				loads, loaded = loads+1, t
			}
		}
	}
	return loads
}

// toPlane fills in the work of bringing some rows of w from a form to a plane, in `tiles` pieces of a row.
func (w *weight) toPlane(t *predict.Task, from form, rows, tiles int) {
	const lanes = 32
	share := float64(rows) / float64(w.Rows)
	t.Products = float64(w.Rows) * float64(w.Cols) * share
	t.Bytes = w.readBytes(from)*share + float64(w.planeBytes(rows))
	t.Runs = lanes * float64(rows*tiles)
}

// readBytes returns what a product reads of w in a form.
func (w *weight) readBytes(f form) float64 {
	n := int64(0)
	for _, p := range w.parts(f) {
		if p.dst != &w.desc.RowPosition { // for embeddings only
			n += p.size
		}
	}
	return float64(n)
}

// rounds estimates how many loads one block makes one after the other to prepare a vector (cuda/prepare.cuh).
func (t *prepareTaskDesc) rounds() float64 {
	const threads, stepPairs, stepTile = 256, 32, 128
	n := ceilDiv(int(t.Cols), threads)
	if t.Norm != 0 {
		n += ceilDiv(int(t.Cols), threads)
	}
	if t.Xp != 0 {
		n += ceilDiv(int(t.Steps)*stepPairs, threads) + ceilDiv(int(t.Tiles)*ceilDiv(int(t.StepsPerTile), 4)*stepTile, threads)
	}
	return float64(n)
}
