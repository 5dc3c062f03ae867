package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	maxBatch = 4096
	maxCtx   = 1 << 24
	maxPages = 1 << 20
	// Logits are computed for as many tokens at a time as fit logitBytes, but at least gemvBatch and at most a gemm tile.
	logitBytes = 16 << 20
	// loadStretch bounds each of the stretches of streams, low bits and sub-scales that load has on the device twice.
	loadStretch = 8 << 20
	// kvBlock is how many values of an 8-bit cache share a scale.
	kvBlock = 32
)

// devicePlan is the memory plan in detail. Device memory is one arena: weights, descriptors and tables first; then the work area,
// which load uses for stretches of what it decodes, and Forward for caches and activations.
type devicePlan struct {
	engine.MemoryPlan
	nCtx, batch int
	planeRoom   int64        // bounds the decoded piece of a coded matrix during prefill, unless one group needs more
	corrected   *corrections // of predicted times; nil = none
	weights     []*weight    // in the order of the program
	forms       map[*weight]form
	weightBytes int64
	load        loadSizes
	kvBytes     int64 // of one cache: keys or values of one layer
	kvQ8        bool  // caches of 8 bits
	sequences   int   // of a batch
	caches      int
	splits      int  // of the positions that attention works on at a time
	tiles       bool // many tokens of a run attend on tensor cores
	fwd         forwardSizes
}

// loadSizes are the bytes of what load works in.
type loadSizes struct {
	stretch  int64 // most bytes of each kind in a staging buffer
	staging  int64 // bytes of a staging buffer, of which there are two
	unpacked int64 // rows as bytes, before they are packed; 0 = nothing is packed
}

func (s *loadSizes) total() int64 { return 2*s.staging + allocationBytes(s.unpacked) }

// grow reserves load memory for w.
func (s *loadSizes) grow(w *weight, f form) {
	if w.Coded == nil {
		return
	}
	var scales, coded int64
	for _, p := range w.subScaleBlocks(0, w.scaleRows(s.stretch)) {
		scales += allocationBytes(p.size)
	}
	if f == formPlane || f == formPacked {
		coded = w.descriptorBytes()
		for _, p := range w.directoryBlocks() {
			coded += allocationBytes(p.size)
		}
		for _, p := range w.streamBlocks() {
			coded += allocationBytes(min(p.size, s.stretch))
		}
	}
	if f == formPacked {
		s.unpacked = max(s.unpacked, w.unpackedBytes(s.stretch))
	}
	s.staging = max(s.staging, scales, coded)
}

// forwardSizes are the bytes of the blocks that Forward works in.
type forwardSizes struct {
	buffers [model.NumBuffers]int64
	// from one prepared vector to the next; there are as many as tokens in a batch
	preparedStride int64
	prepared       int64
	tasks          int64 // descriptions of what launches do
	partial        int64 // results of attention's splits; 0 = there is one
	scaled         int64 // inputs times column scales; 0 = no tensor has any
	plane          int64 // decoded piece of a matrix, for which there are two planes; 0 = none is coded
	side           int64 // up to gemvBatch prepared vectors, side by side
	ids            int64 // positions, tokens and page tables
	freqs          int64 // rotation frequencies; 0 = no rotation
	states         int64 // of sequences, in all places; 0 = the model has none
	moves          int64 // where states of a batch's tokens come from and go to
}

// PlanMemory tells what Load would allocate on a device with the given properties. It allocates nothing on it. The error unwraps
// to driver.ErrOutOfMemory when the model does not fit.
func PlanMemory(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, error) {
	plan, err := planDevice(info, f, prog, opt, KeptTimes(info, opt.CacheDir))
	if plan == nil {
		return engine.MemoryPlan{}, err
	}
	return plan.MemoryPlan, err
}

// planDevice chooses plan and layout; times are those that plan auto corrects predictions by. A layout that does not fit comes
// back together with the error.
func planDevice(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions,
	times []engine.ProductTime) (*devicePlan, error) {
	base, err := newDevicePlan(info, f, prog, opt)
	if err != nil {
		return nil, err
	}
	on := processorOf(info)
	base.Device = info.Label()
	base.splits = attentionSplits(&prog.Config, on.sms, base.nCtx)
	base.tiles = attendsInTiles(&prog.Config, on)
	if opt.Plan == engine.PlanAuto || opt.Plan == "" {
		base.Measured, base.corrected = times, newCorrections(times)
	}
	base.Budget = max(info.MemFree-info.MemReserve, 0)
	if opt.MemoryBudget > 0 { // whoever names a budget may use the reserve
		base.Budget = min(opt.MemoryBudget, info.MemFree)
	}
	resident, fused := *base, *base
	if err := resident.size(f, prog, engine.PlanResident, nil); err != nil {
		return nil, err
	}
	if err := fused.size(f, prog, engine.PlanFused, nil); err != nil {
		return nil, err
	}
	chosen := &fused
	switch opt.Plan {
	case engine.PlanResident, engine.PlanFused:
		if opt.Plan == engine.PlanResident {
			chosen = &resident
		}
		chosen.Reason = "as asked for"
	case engine.PlanAuto, engine.PlanHybrid, "":
		if chosen, err = base.choosePlan(info, f, prog, opt.Plan, &resident, &fused); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown plan %q; use resident, fused, hybrid or auto", opt.Plan)
	}
	for _, w := range chosen.weights {
		w.settle(chosen.forms[w], on)
	}
	if chosen.Total() > base.Budget {
		return chosen, chosen.tooLarge(&fused)
	}
	return chosen, nil
}

func gib(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }

// tooLarge explains a plan that does not fit and says what would.
func (l *devicePlan) tooLarge(fused *devicePlan) error {
	hint := "compress the model again with a lower --bpw, or choose a smaller one"
	perToken := max(fused.KV/int64(max(fused.nCtx, 1)), 1) // of one sequence
	const leastCtx = 64
	switch fit := int64(fused.nCtx) - (fused.Total()-l.Budget+perToken-1)/perToken; {
	case l.Plan == engine.PlanResident && fused.Total() <= l.Budget:
		hint = "--plan fused fits"
	case fit >= leastCtx:
		fit -= fit % engine.PageTokens
		hint = fmt.Sprintf("--plan fused --ctx %d fits", fit)
	}
	return fmt.Errorf("plan %s needs %s (weights %s, KV cache for %d tokens %s, scratch %s) but %s has room for %s: %s: %w", l.Plan,
		gib(l.Total()), gib(l.Weights),
		l.Pages*engine.PageTokens, gib(l.KV), gib(l.Scratch), l.Device, gib(l.Budget), hint, driver.ErrOutOfMemory)
}

// prefillSizes returns the tokens of a prefill batch, and the bytes of a decoded piece of a matrix. A product of many tokens has
// a block for each tile of its result, so a device of many multiprocessors has work for all only if a launch gets many rows and
// tokens: 128 × 128 tiles of 4096 rows and 512 tokens are 128 blocks. Small devices take pieces that their caches hold.
func prefillSizes(info driver.Info) (batch int, plane int64) {
	const (
		smallBatch, largeBatch = 256, 512
		manySMs                = 32
		leastPlane, mostPlane  = 8 << 20, 64 << 20
		planePerSM             = 512 << 10
		memoryShare            = 256 // a plane takes at most this part of all memory
	)
	if on := processorOf(info); !on.mma {
		return smallBatch, leastPlane
	}
	batch = smallBatch
	if info.SMs >= manySMs {
		batch = largeBatch
	}
	return batch, max(leastPlane, min(mostPlane, planePerSM*int64(info.SMs), info.MemTotal/memoryShare))
}

// newDevicePlan collects and checks the weights that prog uses.
func newDevicePlan(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions) (*devicePlan, error) {
	l := &devicePlan{nCtx: opt.NCtx, sequences: max(opt.Sequences, 1)}
	switch opt.KVType {
	case engine.KVF16, "":
	case engine.KVQ8:
		l.kvQ8 = true
		if prog.Config.HeadDim%kvBlock != 0 {
			return nil, fmt.Errorf("heads of %d dimensions; an 8-bit cache needs multiples of %d (use --kv-type f16)", prog.Config.HeadDim,
				kvBlock)
		}
	default:
		return nil, fmt.Errorf("unknown type of KV cache %q; use %s or %s", opt.KVType, engine.KVF16, engine.KVQ8)
	}
	if l.nCtx <= 0 {
		l.nCtx = prog.Config.NCtx
	}
	if l.nCtx < 1 || l.nCtx > maxCtx {
		return nil, fmt.Errorf("context of %d tokens, expected 1 to %d", l.nCtx, maxCtx)
	}
	if l.sequences > maxBatch {
		return nil, fmt.Errorf("%d sequences, expected at most %d", l.sequences, maxBatch)
	}
	opt.NCtx = l.nCtx
	l.States = opt.StatePlaces(prog)
	if l.Pages = opt.Pages(); l.Pages > maxPages {
		return nil, fmt.Errorf("a cache of %d pages of %d tokens, expected at most %d", l.Pages, engine.PageTokens, maxPages)
	}
	l.batch, l.planeRoom = prefillSizes(info)
	l.batch = min(opt.Batch(l.batch), maxBatch)
	l.MemoryPlan.Batch = l.batch
	c := collector{file: f, prog: prog, byName: map[string]*weight{}}
	if err := c.collect(); err != nil {
		return nil, err
	}
	l.weights, l.caches = c.weights, c.caches
	return l, nil
}

// formUnder returns w's form under a plan; decoded: plan hybrid decodes it. A lookup-only matrix stays coded: decoding one row is
// cheap.
func (w *weight) formUnder(plan engine.Plan, decoded bool) form {
	switch {
	case w.use&model.UseVector != 0:
		return formVector
	case w.Raw != nil:
		return formRaw
	case plan == engine.PlanFused || w.use&model.UseProduct == 0 || plan == engine.PlanHybrid && !decoded:
		return formCoded
	}
	return w.residentForm()
}

// size fills in forms and sizes under a plan. decoded are the matrices that plan hybrid decodes.
func (l *devicePlan) size(f *format.Reader, prog *model.Program, plan engine.Plan, decoded map[*weight]bool) error {
	l.Plan, l.forms = plan, map[*weight]form{}
	l.weightBytes = codeTableSizes(f)
	l.load = loadSizes{stretch: loadStretch}
	l.fwd = forwardSizes{}
	for _, w := range l.weights {
		form := w.formUnder(plan, decoded[w])
		l.forms[w] = form
		l.weightBytes += w.arenaBytes(form) + w.descriptorBytes()
		l.load.grow(w, form)
		l.fwd.grow(w, form, l.batch, l.planeRoom)
	}
	l.sizeForward(prog)
	l.KV = int64(2*l.caches)*allocationBytes(l.kvBytes) + allocationBytes(l.fwd.states)
	work := max(l.load.total(), l.fwd.total()+l.KV)
	l.Weights = l.weightBytes
	l.Scratch = work - l.KV
	return nil
}

// codeTableSizes returns what the code tables take.
func codeTableSizes(f *format.Reader) int64 {
	n := allocationBytes(int64(len(f.Tables())+1) * codeTableBytes)
	for _, t := range f.Tables() {
		n += allocationBytes(4 << longestCode(t))
	}
	return n
}

// grow makes room for what products with w need.
func (s *forwardSizes) grow(w *weight, f form, batch int, planeRoom int64) {
	if w.use&model.UseProduct == 0 || w.Coded == nil {
		return
	}
	s.preparedStride = max(s.preparedStride, allocationBytes(preparedBytes(w.Coded)))
	s.side = max(s.side, sideBytes(w.Coded))
	if w.Coded.ColScale != nil {
		s.scaled = max(s.scaled, int64(batch)*int64(w.Cols)*4)
	}
	if f == formCoded || f == formPacked {
		s.plane = max(s.plane, min(w.planeBytes(w.Rows), max(planeRoom, w.planeBytes(max(w.Coded.Coding.RowsPerGroup, quadRows)))))
	}
}

// preparedBytes returns the size of a vector after x_prepare, for itself (cuda/prepared.cuh).
func preparedBytes(c *format.Coded) int64 {
	const header, perSixteenSteps = 64, 2048
	return header + perSixteenSteps*int64(ceilDiv(c.Steps(), 16))
}

// sideBytes returns the size of gemvBatch vectors after x_prepare, side by side (cuda/prepared.cuh).
func sideBytes(c *format.Coded) int64 {
	const header, perSixteenSteps, perFourSteps = 64, 2048 + 256, 512
	return header + gemvBatch*(perSixteenSteps*int64(ceilDiv(c.Steps(),
		16))+perFourSteps*int64(c.Tiles())*int64(ceilDiv(c.StepsPerTile(), 4)))
}

func (l *devicePlan) sizeForward(prog *model.Program) {
	s := &l.fwd
	for b := range model.NumBuffers {
		rows := l.batch
		if b == model.BufLogits {
			rows = l.logitBatch(prog)
		}
		s.buffers[b] = 4 * int64(rows) * int64(prog.Width(b))
	}
	k := &prog.Config
	s.prepared = int64(l.batch) * s.preparedStride
	s.ids = 4 * (3*int64(l.batch) + int64(min(l.sequences, l.batch))*int64(engine.PagesFor(l.nCtx)))
	s.states, s.moves = 4*int64(l.States)*int64(engine.StateFloats(prog)), 0
	if l.States > 0 {
		s.moves = 4 * 2 * int64(l.batch)
	}
	s.freqs = 0
	for i := range prog.Ropes {
		s.freqs += 4 * int64(prog.Ropes[i].Dim/2)
	}
	s.tasks = allocationBytes(counterBytes(k)) + taskBytes(prog)
	if l.splits > 1 {
		s.partial = 4 * gemvBatch * int64(k.NHeads) * int64(l.splits) * int64(k.HeadDim+2)
	}
	values := int64(l.Pages) * engine.PageTokens * int64(prog.Width(model.BufK))
	l.kvBytes = 2 * values
	if l.kvQ8 {
		l.kvBytes = values + 2*(values/kvBlock)
	}
}

// logitBatch returns the most tokens whose logits are computed at a time.
func (l *devicePlan) logitBatch(prog *model.Program) int {
	fit := logitBytes / (4 * prog.Width(model.BufLogits))
	return min(l.batch, max(gemvBatch, min(fit, gemmTokens)))
}

// total returns the bytes of all blocks.
func (s *forwardSizes) total() int64 {
	n := int64(0)
	for _, b := range s.buffers {
		n += allocationBytes(b)
	}
	for _, b := range []int64{s.moves, s.prepared, s.side, s.scaled, s.plane, s.plane, s.ids, s.freqs, s.tasks, s.partial} {
		n += allocationBytes(b)
	}
	return n
}
