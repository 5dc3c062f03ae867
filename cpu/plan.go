package cpu

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/memory"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// choosePlan fills b.plan and returns the matrices to make resident. It allocates nothing large.
func (b *Backend) choosePlan(opt engine.LoadOptions) ([]*weights.Matrix, error) {
	fixed := engine.MemoryPlan{Device: "cpu", KV: b.kvBytes(), Pages: b.pages, States: b.places, Budget: opt.MemoryBudget}
	if fixed.Budget <= 0 {
		free := memory.Available()
		fixed.Budget, fixed.Limit = free.Bytes, free.What
	}
	var all []*weights.Matrix
	for _, m := range b.matrices {
		if m.Coded != nil && m.Multiplied {
			m.ChooseForm(b.dot)
			all = append(all, m)
		}
	}
	decoded, coded := b.withWeights(fixed, all, len(all)), b.withWeights(fixed, nil, len(all))
	resident := all
	switch {
	case opt.Plan == engine.PlanResident:
		b.plan, b.plan.Reason = decoded, "as asked"
	case opt.Plan == engine.PlanFused:
		resident = nil
		b.plan, b.plan.Reason = coded, "as asked"
	case opt.Plan != engine.PlanAuto && opt.Plan != engine.PlanHybrid && opt.Plan != "":
		return nil, fmt.Errorf("cpu: unknown plan %q; use resident, fused, hybrid or auto", opt.Plan)
	case fits(&decoded):
		b.plan, b.plan.Reason = decoded, "all decoded weights fit in memory"
	default:
		resident, b.plan = b.choosePart(fixed, all)
		b.plan.Reason = fmt.Sprintf("%d of %d matrices decoded: all would need %s, %s are available", len(resident), len(all),
			mib(decoded.Total()), mib(decoded.Budget))
	}
	if !fits(&b.plan) {
		return nil, b.refusal(&coded)
	}
	return resident, nil
}

func fits(p *engine.MemoryPlan) bool { return p.Budget <= 0 || p.Total() <= p.Budget }

// choosePart returns those of the matrices that save most time per byte if they are decoded, as many as fit, and the plan with
// them. Decoding takes a time proportional to the weights, reading what is decoded a small part of that.
func (b *Backend) choosePart(fixed engine.MemoryPlan, all []*weights.Matrix) ([]*weights.Matrix, engine.MemoryPlan) {
	more := func(m *weights.Matrix) float64 { // bytes per weight; the coded form is dropped
		return float64(m.ResidentBytes()-m.Tensor.Bytes) / (float64(m.Rows) * float64(m.Cols))
	}
	sorted := slices.SortedStableFunc(slices.Values(all), func(x, y *weights.Matrix) int { return cmp.Compare(more(x), more(y)) })
	var chosen []*weights.Matrix
	plan := b.withWeights(fixed, nil, len(all))
	for _, m := range sorted {
		if p := b.withWeights(fixed, append(chosen, m), len(all)); fits(&p) || p.Total() <= plan.Total() {
			chosen, plan = append(chosen, m), p
		}
	}
	return chosen, plan
}

// withWeights completes a plan for some of `all` matrices being resident. The others are read from the file's mapping.
func (b *Backend) withWeights(p engine.MemoryPlan, resident []*weights.Matrix, all int) engine.MemoryPlan {
	switch len(resident) {
	case 0:
		p.Plan = engine.PlanFused
	case all:
		p.Plan = engine.PlanResident
	default:
		p.Plan = engine.PlanHybrid
	}
	isResident := map[*weights.Matrix]bool{}
	for _, m := range resident {
		isResident[m] = true
	}
	p.Weights = b.tables.Bytes()
	for _, m := range b.matrices {
		p.Weights += m.TableBytes()
		if isResident[m] {
			p.Weights += m.ResidentBytes()
		} else {
			p.Weights += m.Tensor.Bytes
		}
	}
	s := b.workerSizes(isResident)
	_, worker := s.alloc(b.k, b.dot, true)
	p.Scratch = int64(b.threads)*worker + b.allocInputs(true)
	for i := range model.NumBuffers {
		if i != model.BufLogits {
			p.Scratch += 4 * int64(b.maxBatch) * int64(b.stride(i))
		}
	}
	p.Scratch += 4 * int64(b.slots) * int64(b.prog.Config.NVocab)
	p.Batch = b.maxBatch
	return p
}

// workerSizes returns the sizes of a worker's buffers, given which matrices are resident.
func (b *Backend) workerSizes(resident map[*weights.Matrix]bool) workerSizes {
	s := workerSizes{Sizes: product.Sizes{Sizes: weights.NewSizes(), Batch: b.maxBatch}, config: &b.prog.Config}
	for _, m := range b.matrices {
		s.Add(m, resident[m])
	}
	return s
}

// allocInputs makes the quantized activations, or with dry set only counts their bytes.
func (b *Backend) allocInputs(dry bool) (bytes int64) {
	var slots [][]product.Tiling // all tilings that a slot serves
	for i := range b.nodes {
		for j, l := range b.nodes[i].tilings {
			if j == len(slots) {
				slots = append(slots, nil)
			}
			slots[j] = append(slots[j], l)
		}
	}
	if !dry {
		b.inputs = make([]product.Activations, len(slots))
	}
	for i, tilings := range slots {
		var a product.Activations
		bytes += a.Alloc(tilings, b.maxBatch, dry)
		if !dry {
			b.inputs[i] = a
		}
	}
	return bytes
}

func (b *Backend) kvBytes() int64 { return b.cache.alloc(true) + 4*int64(b.places)*int64(b.state) }

// refusal explains that even the smallest plan does not fit, and what to do.
func (b *Backend) refusal(smallest *engine.MemoryPlan) error {
	p := &b.plan
	advice := "use a smaller context (--ctx), a smaller model or fewer bits per weight"
	if p.Plan != engine.PlanFused && smallest.Total() <= smallest.Budget {
		advice = fmt.Sprintf("--plan fused needs %s", mib(smallest.Total()))
	}
	limit := ""
	if p.Limit != "" {
		limit = " (" + p.Limit + ")"
	}
	return fmt.Errorf("cpu: plan %s needs %s (weights %s, KV cache for %d tokens %s, scratch %s), but %s are available%s: %s",
		p.Plan, mib(p.Total()), mib(p.Weights), b.pages*page, mib(p.KV), mib(p.Scratch), mib(p.Budget), limit, advice)
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// PlanMemory returns what Load would allocate, without doing so. An error beside a plan means that it does not fit.
func PlanMemory(f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, error) {
	b := New().(*Backend)
	if err := b.setup(f, prog, opt); err != nil {
		return engine.MemoryPlan{}, err
	}
	if err := b.link(context.Background()); err != nil {
		return engine.MemoryPlan{}, err
	}
	_, err := b.choosePlan(opt)
	return b.plan, err
}
