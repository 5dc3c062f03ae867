package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Estimates of what kernels execute beyond their main loops, in instructions of a lane.
const (
	tableEntryCost = 14 // to bring an entry of a code table to shared memory
	outlierCost    = 40 // to multiply with an outlier or an exception, other lanes waiting
	findCost       = 80 // to find those of a row
)

// Loads that a block makes one after the other.
const (
	gemvRounds      = 8  // of a product: the task, the matrix, its arrays, weights, the row's place
	attentionRounds = 12 // of attention, before, between and after the positions
	attentionTeams  = 32 // positions that a block of attention works on at a time
)

// costOf returns what the launches of an action have to do for the tokens of s, in the order in which run makes them.
func costOf(a action, p *pass, s tokenRange) []predict.Work {
	if a.idle(s) {
		return nil
	}
	switch a := a.(type) {
	case *embedAction:
		return []predict.Work{a.launch(s.n).work(predict.WorkItem{Tensor: a.w.Name})}
	case *addAction:
		return []predict.Work{p.addCost(p.values(a.dst, s))}
	case *convAction:
		return []predict.Work{a.cost(p, s)}
	case *deltaAction:
		return []predict.Work{a.cost(p, s)}
	case *gateHeadsAction:
		return []predict.Work{a.launch(s.n).work()}
	case *normHeadsAction:
		return []predict.Work{a.launch(s.n).work()}
	case *prepareAction:
		w := launch{kernel: kernels.XPrepareID}.work()
		w.Blocks, w.Rounds = s.n, prepareRounds(&a.task)
		return []predict.Work{w}
	case *attendAction:
		return attendCost(a, p, s)
	case *productAction:
		return productCost(a, p, s)
	case *logitsAction:
		if s.n <= gemvBatch {
			return productCost(&a.productAction, p, s)
		}
		var all []predict.Work
		for _, r := range a.ranges(p, s) {
			all = append(all, p.batchCost(a.products[0].weight, r.n)...)
		}
		return all
	}
	return nil
}

func (p *pass) addCost(n int64) predict.Work {
	const bytes = 12 // read, read and written for a value
	return p.addLaunch(n).work(predict.WorkItem{Bytes: bytes * float64(n)})
}

// attendCost is the cost of rotation, cache and attention.
func attendCost(a *attendAction, p *pass, s tokenRange) (all []predict.Work) {
	fresh := a.fresh(p, s)
	if !fresh {
		all = append(all, a.storeLaunch(p).work())
	}
	for _, c := range a.calls(p, s) {
		all = append(all, a.callCost(p, c))
	}
	return all
}

// callCost is the cost of one launch of attention: every token reads the keys and values before it, tokens of a run the same
// ones.
func (a *attendAction) callCost(p *pass, c attendCall) predict.Work {
	k := &p.prog.Config
	perPosition := 2 * float64(p.kvBytes) / float64(p.pages*engine.PageTokens)
	bytes, products, most := 0.0, 0.0, 0.0
	for _, r := range p.runs {
		first, end := max(r.first, c.first), min(r.first+r.n, c.first+c.n)
		if first >= end {
			continue
		}
		n := float64(end - first)
		seen := float64(r.pos+first-r.first) + (n+1)/2 // positions that a token sees, on average
		if c.tiles {
			products += float64(k.NHeads) * tileProducts(k.HeadDim, r.pos+first-r.first, end-first)
		} else {
			products += 2 * n * float64(k.NHeads*k.HeadDim) * seen
		}
		if c.byToken {
			bytes += perPosition * float64(r.pos+end-r.first)
		} else {
			bytes += perPosition * n * seen
		}
		most = max(most, seen)
	}
	w := c.launch.work(predict.WorkItem{Bytes: bytes, Products: products})
	if w.Rounds = attentionRounds + 2*most/float64(attentionTeams*p.splits); c.tiles {
		w.Rounds = attentionRounds + 2*most/engine.PageTokens
	}
	if c.after {
		w.Tail = tailRounds(a.after, c.n)
	}
	return w
}

// tileProducts counts what attention_tiles_* multiply for a head and n tokens from position pos on: whole pages of positions for
// the tokens of a warp, by keys and by values.
func tileProducts(headDim, pos, n int) float64 {
	dims := ceilDiv(headDim, engine.PageTokens) * engine.PageTokens
	products := 0.0
	for t := 0; t < n; t += tileQueries {
		tokens := min(tileQueries, n-t)
		products += float64(2 * dims * ceilDiv(tokens, warpQueries) * warpQueries * engine.PagesFor(pos+t+tokens) * engine.PageTokens)
	}
	return products
}

// tailRounds are the rounds of the last block of a launch, which prepares n vectors.
func tailRounds(after *prepareAction, n int) float64 {
	if after == nil || n > mergedTokens {
		return 0
	}
	return float64(n) * prepareRounds(&after.task)
}

// productOf is the work of multiplying w alone, in a form, with n vectors one by one.
func productOf(w *weight, f form, k product, n int) predict.Work {
	l := gemvLaunch(k.gemv, k.gemvGrid, n, k.gemvShared)
	work := l.work(w.gemvItem(f, &k, l.grid.Y, l.kernel.Size()))
	work.Rounds = gemvRounds
	return work
}

// productCost is the cost of products with one input.
func productCost(a *productAction, p *pass, s tokenRange) (all []predict.Work) {
	if s.n <= gemvBatch {
		l := a.gemvLaunch(s.n)
		w := l.work()
		for _, o := range a.products {
			w.Items = append(w.Items, o.weight.gemvItem(o.weight.form, &o.weight.product, l.grid.Y, l.kernel.Size()))
		}
		w.Rounds, w.Tail = gemvRounds, tailRounds(a.after, s.n)
		return []predict.Work{w}
	}
	for _, o := range a.products {
		all = append(all, p.batchCost(o.weight, s.n)...)
		if a.residual {
			all = append(all, p.addCost(p.values(model.BufX, s)))
		}
	}
	return all
}

// batchCost is the cost of multiplyBatch.
func (p *pass) batchCost(w *weight, n int) (all []predict.Work) {
	pieces := p.pieces(w)
	if pieces == nil {
		return []predict.Work{w.gemmCost(rowRange{0, w.Rows}, n)}
	}
	for _, r := range pieces {
		all = append(append(all, p.planeCost(w, r)...), w.gemmCost(r, n))
	}
	return all
}

// gemmCost is that of multiplying some rows in their plane. Whole tiles are computed, as far as tokens of a warp are wanted.
func (w *weight) gemmCost(r rowRange, n int) predict.Work {
	l, unit := w.product.gemmLaunch(r.n, n), w.product.gemmUnit
	if w.product.hasWide && l.kernel == w.product.gemmWide {
		unit = wideTokens / 2 // of a warp
	}
	rows, tokens := l.grid.X*w.product.gemmRows, ceilDiv(n, unit)*unit
	return l.work(predict.WorkItem{Tensor: w.Name, Products: float64(rows) * float64(w.Cols) * float64(tokens),
		Bytes: float64(w.planeBytes(1)) * float64(r.n) * float64(l.grid.Y)})
}

// planeCost is that of decoding, or unpacking, some rows to a plane.
func (p *pass) planeCost(w *weight, r rowRange) []predict.Work {
	if w.form == formPacked {
		return []predict.Work{w.unpackLaunch(r.n, p.sms).work(w.planeItem(r.n, 1))}
	}
	c := w.Coded
	perGroup := c.Coding.RowsPerGroup
	first, groups := r.first/perGroup, ceilDiv(r.n, perGroup)
	l := w.chunksLaunch(groups, p.sms)
	item := w.planeItem(min(groups*perGroup, w.Rows), c.Tiles())
	item.Other += w.tableCost(decodeLoads(c, first, groups, l.grid.X))
	all := []predict.Work{l.work(item)}
	if len(c.Outliers) > 0 {
		all = append(all, w.outliersLaunch(groups).work(predict.WorkItem{Tensor: w.Name}))
	}
	return all
}

// gemvItem is the work of reading w, in a form, and multiplying it with t vectors, `times` times.
func (w *weight) gemvItem(f form, k *product, times, t int) predict.WorkItem {
	kernel, _ := k.gemv.Vectors(t, t)
	item := predict.WorkItem{Tensor: w.Name, Kernel: kernel.String(), Products: float64(w.Rows) * float64(w.Cols),
		Bytes: w.readBytes(f), Tables: f == formCoded}
	w.aroundProduct(&item, f, k)
	for _, v := range []*float64{&item.Products, &item.Bytes, &item.Runs, &item.Other} {
		*v *= float64(times)
	}
	return item
}

// aroundProduct fills in what a product of one vector does besides its main loop.
func (w *weight) aroundProduct(t *predict.WorkItem, f form, k *product) {
	const lanes = 32
	rows := float64(w.Rows)
	switch f {
	case formPacked:
		t.Runs = float64(ceilDiv(w.Rows, quadRows)) * float64(k.rowLanes)
		t.Other = w.packed.expected * outlierCost
	case formCoded:
		t.Runs = lanes * rows * float64(w.Coded.Tiles())
		t.Other = w.tableCost(fusedLoads(w.Coded, k.gemvGrid))
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

// decodeLoads counts the tables that the blocks of decode_chunks_* load for n groups: each block takes a range of chunks,
// numbered tile by tile.
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

// planeItem is the work of bringing some rows of w to a plane, in `tiles` pieces of a row.
func (w *weight) planeItem(rows, tiles int) predict.WorkItem {
	const lanes = 32
	share := float64(rows) / float64(w.Rows)
	return predict.WorkItem{Tensor: w.Name, Products: float64(w.Rows) * float64(w.Cols) * share,
		Bytes: w.readBytes(w.form)*share + float64(w.planeBytes(rows)), Runs: lanes * float64(rows*tiles), Tables: w.form == formCoded}
}

// prepareRounds estimates how many loads one block makes one after the other to prepare a vector (cuda/prepare.cuh).
func prepareRounds(t *kernels.PrepareTask) float64 {
	const columns = 4 * 256 // that the block takes at a time
	n := ceilDiv(int(t.Cols), columns)
	if t.Norm != 0 {
		n += ceilDiv(int(t.Cols), columns)
	}
	if t.Xp != 0 || t.Side != 0 {
		n += ceilDiv(int(t.Steps)*format.StepCols, columns)
	}
	return float64(n)
}
