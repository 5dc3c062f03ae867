package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	defaultBatch = 256 // tokens of a prefill batch
	maxBatch     = 4096
	maxCtx       = 1 << 24
	// gemvBatch is the most tokens that are multiplied one by one; more go through gemm, which first decodes coded matrices.
	gemvBatch = 8
	// Logits are computed for as many tokens at a time as fit logitBytes, but at least gemvBatch and at most a gemm tile.
	logitBytes = 16 << 20
	gemmTokens = 64
	// planeScratch bounds the decoded piece of a coded matrix during prefill, unless one group needs more.
	planeScratch = 8 << 20
	// loadPiece bounds each of the pieces of streams, low bits and sub-scales that load has on the device twice.
	loadPiece = 8 << 20
	// kvBlock is how many values of an 8-bit cache share a scale.
	kvBlock = 32
	// A split of attention has at least splitPositions when the context is full; there are at most maxSplits.
	splitPositions = 256
	maxSplits      = 32
)

// layout is the memory plan in detail. Device memory is one arena: weights, descriptors and tables first; behind them the work
// area, which load uses for pieces of what it decodes, and Forward for caches and activations.
type layout struct {
	engine.MemoryPlan
	nCtx, batch int
	weights     []*weight // in the order of the program, their form set
	weightBytes int64
	load        loadSizes
	kvBytes     int64 // of one cache: keys or values of one layer
	kvQ8        bool  // caches of 8 bits
	caches      int
	splits      int // of the positions that attention works on at a time
	fwd         forwardSizes
}

// loadSizes are the bytes of what load works in.
type loadSizes struct {
	piece int64 // most bytes of each kind in a slot
	slot  int64 // of which there are two
	stage int64 // 0 = nothing is packed
}

func (s *loadSizes) total() int64 { return 2*s.slot + blockSpan(s.stage) }

// grow makes room for what becomes of w.
func (s *loadSizes) grow(w *weight, f form) {
	if w.Coded == nil {
		return
	}
	var scales, coded int64
	for _, p := range w.subScaleParts(0, w.scaleRows(s.piece)) {
		scales += blockSpan(p.size)
	}
	if f == formPlane || f == formPacked {
		coded = w.descSpan()
		for _, p := range w.directoryParts() {
			coded += blockSpan(p.size)
		}
		for _, p := range w.streamParts() {
			coded += blockSpan(min(p.size, s.piece))
		}
	}
	if f == formPacked {
		s.stage = max(s.stage, w.stageBytes(s.piece))
	}
	s.slot = max(s.slot, scales, coded)
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
	ids            int64 // positions and tokens
	freqs          int64 // rotation frequencies; 0 = no rotation
}

// PlanMemory tells what Load would allocate on a device with the given properties. It allocates nothing on it. The error unwraps to
// driver.ErrOutOfMemory when the model does not fit.
func PlanMemory(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, error) {
	lay, err := planLayout(info, f, prog, opt)
	if lay == nil {
		return engine.MemoryPlan{}, err
	}
	return lay.MemoryPlan, err
}

// planLayout chooses plan and layout. A layout that does not fit comes back together with the error.
func planLayout(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions) (*layout, error) {
	base, err := newLayout(f, prog, opt)
	if err != nil {
		return nil, err
	}
	base.Device = info.Label()
	base.splits = attentionSplits(&prog.Config, max(info.SMs, 1), base.nCtx)
	base.Budget = info.MemFree
	if opt.MemoryBudget > 0 {
		base.Budget = min(opt.MemoryBudget, info.MemFree)
	}
	resident, fused := *base, *base
	if err := resident.size(f, prog, engine.PlanResident); err != nil {
		return nil, err
	}
	if err := fused.size(f, prog, engine.PlanFused); err != nil {
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
	chosen.setForms(chosen.Plan)
	if chosen.Total() > base.Budget {
		return chosen, chosen.tooLarge(&fused)
	}
	return chosen, nil
}

func gib(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }

// tooLarge explains a plan that does not fit and says what would.
func (l *layout) tooLarge(fused *layout) error {
	hint := "compress the model again with a lower --bpw, or choose a smaller one"
	perToken := max(fused.KV/int64(max(fused.nCtx, 1)), 1)
	const leastCtx = 64
	switch fit := int64(fused.nCtx) - (fused.Total()-l.Budget+perToken-1)/perToken; {
	case l.Plan == engine.PlanResident && fused.Total() <= l.Budget:
		hint = "--plan fused fits"
	case fit >= leastCtx:
		hint = fmt.Sprintf("--plan fused --ctx %d fits", fit)
	}
	return fmt.Errorf("plan %s needs %s (weights %s, KV cache for %d tokens %s, scratch %s) but %s has %s free: %s: %w", l.Plan, gib(l.Total()), gib(l.Weights),
		l.nCtx, gib(l.KV), gib(l.Scratch), l.Device, gib(l.Budget), hint, driver.ErrOutOfMemory)
}

// newLayout collects and checks the weights that prog uses.
func newLayout(f *format.Reader, prog *model.Program, opt engine.LoadOptions) (*layout, error) {
	l := &layout{nCtx: opt.NCtx, batch: opt.MaxBatch}
	switch opt.KVType {
	case engine.KVF16, "":
	case engine.KVQ8:
		l.kvQ8 = true
		if prog.Config.HeadDim%kvBlock != 0 {
			return nil, fmt.Errorf("heads of %d dimensions; an 8-bit cache needs multiples of %d (use --kv-type f16)", prog.Config.HeadDim, kvBlock)
		}
	default:
		return nil, fmt.Errorf("unknown type of KV cache %q; use %s or %s", opt.KVType, engine.KVF16, engine.KVQ8)
	}
	if l.batch <= 0 {
		l.batch = defaultBatch
	}
	if l.nCtx <= 0 {
		l.nCtx = prog.Config.NCtx
	}
	l.batch = min(l.batch, maxBatch, max(l.nCtx, 1))
	if l.nCtx < 1 || l.nCtx > maxCtx {
		return nil, fmt.Errorf("context of %d tokens, expected 1 to %d", l.nCtx, maxCtx)
	}
	c := collector{file: f, prog: prog, byName: map[string]*weight{}}
	if err := c.collect(); err != nil {
		return nil, err
	}
	l.weights, l.caches = c.weights, c.caches
	return l, nil
}

// setForms decides how each weight lies in device memory under a plan.
func (l *layout) setForms(plan engine.Plan) {
	for _, w := range l.weights {
		w.form = w.formUnder(plan)
	}
}

// formUnder returns w's form under a plan. A matrix of which only rows are looked up stays coded: a row decodes in no time.
func (w *weight) formUnder(plan engine.Plan) form {
	switch {
	case w.use&useVector != 0:
		return formVector
	case w.Raw != nil:
		return formRaw
	case plan == engine.PlanFused || w.use&useProduct == 0 || plan == engine.PlanHybrid && !w.decoded:
		return formCoded
	}
	return w.residentForm()
}

// residentForm returns the form that w has once decoded.
func (w *weight) residentForm() form {
	if w.packed.bits > 0 {
		return formPacked
	}
	return formPlane
}

// size fills in all sizes under a plan.
func (l *layout) size(f *format.Reader, prog *model.Program, plan engine.Plan) error {
	l.Plan = plan
	l.weightBytes = tableBytes(f)
	l.load = loadSizes{piece: loadPiece}
	l.fwd = forwardSizes{}
	for _, w := range l.weights {
		form := w.formUnder(plan)
		l.weightBytes += w.span(form) + w.descSpan()
		l.load.grow(w, form)
		l.fwd.grow(w, form, l.batch)
	}
	l.sizeForward(prog)
	work := max(l.load.total(), l.fwd.total()+int64(2*l.caches)*blockSpan(l.kvBytes))
	l.Weights = l.weightBytes
	l.KV = int64(2*l.caches) * blockSpan(l.kvBytes)
	l.Scratch = work - l.KV
	return nil
}

// tableBytes returns what the code tables take.
func tableBytes(f *format.Reader) int64 {
	n := blockSpan(int64(len(f.Tables())+1) * codeTableBytes)
	for _, t := range f.Tables() {
		n += blockSpan(4 << longestCode(t))
	}
	return n
}

// grow makes room for what products with w need.
func (s *forwardSizes) grow(w *weight, f form, batch int) {
	if w.use&useProduct == 0 || w.Coded == nil {
		return
	}
	s.preparedStride = max(s.preparedStride, blockSpan(preparedBytes(w.Coded)))
	if w.Coded.ColScale != nil {
		s.scaled = max(s.scaled, int64(batch)*int64(w.Cols)*4)
	}
	if f == formCoded || f == formPacked {
		s.plane = max(s.plane, min(w.planeBytes(w.Rows), max(planeScratch, w.planeBytes(max(w.Coded.Coding.RowsPerGroup, quadRows)))))
	}
}

// preparedBytes returns the size of a vector after x_prepare (cuda/prepared.cuh).
func preparedBytes(c *format.Coded) int64 {
	const header, perSixteenSteps, perStep, perFourSteps = 64, 2048, 16, 512
	return header + perSixteenSteps*int64(ceilDiv(c.Steps(), 16)) + perStep*int64(c.Steps()) + perFourSteps*int64(c.Tiles())*int64(ceilDiv(c.StepsPerTile(), 4))
}

func (l *layout) sizeForward(prog *model.Program) {
	s := &l.fwd
	for b := range model.NumBuffers {
		rows := l.batch
		if b == model.BufLogits {
			rows = l.logitRows(prog)
		}
		s.buffers[b] = 4 * int64(rows) * int64(prog.Width(b))
	}
	k := &prog.Config
	s.prepared = int64(l.batch) * s.preparedStride
	s.ids = 4 * 2 * int64(l.batch)
	s.freqs = 4 * int64(k.RopeDim/2)
	s.tasks = blockSpan(counterBytes(k)) + taskBytes(prog)
	if l.splits > 1 {
		s.partial = 4 * gemvBatch * int64(k.NHeads) * int64(l.splits) * int64(k.HeadDim+2)
	}
	values := int64(l.nCtx) * int64(prog.Width(model.BufK))
	l.kvBytes = 2 * values
	if l.kvQ8 {
		l.kvBytes = values + 2*(values/kvBlock)
	}
}

// attentionSplits returns into how many ranges of positions attention divides the context of one token, so that every multiprocessor has work.
func attentionSplits(k *model.Config, sms, nCtx int) int {
	const blocksPerSM = 2
	return max(1, min(ceilDiv(blocksPerSM*sms, attentionTiles(k)), nCtx/splitPositions, maxSplits))
}

// logitRows returns the most tokens whose logits are computed at a time.
func (l *layout) logitRows(prog *model.Program) int {
	fit := logitBytes / (4 * prog.Width(model.BufLogits))
	return min(l.batch, max(gemvBatch, min(fit, gemmTokens)))
}

// total returns the bytes of all blocks.
func (s *forwardSizes) total() int64 {
	n := int64(0)
	for _, b := range s.buffers {
		n += blockSpan(b)
	}
	for _, b := range []int64{s.prepared, s.scaled, s.plane, s.plane, s.ids, s.freqs, s.tasks, s.partial} {
		n += blockSpan(b)
	}
	return n
}
