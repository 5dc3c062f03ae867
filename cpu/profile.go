package cpu

import (
	"slices"
	"strings"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// profile is what the operations of all Forward calls took, as seen by the caller.
type profile []engine.ProfileEntry

// label gives every stage its entry: operations have one each, products one for each kind of weight.
func (p *profile) label(stages []stage) {
	names := [numOps]string{
		model.OpEmbed: "embed", model.OpRMSNorm: "rmsnorm", model.OpRoPE: "rope", model.OpAttention: "attention", model.OpSwiGLU: "swiglu", model.OpAdd: "add",
	}
	for i := range stages {
		s := &stages[i]
		name := names[s.node.Op]
		for j := range s.products {
			weight := s.products[j].node.Weight
			if parts := strings.Split(weight, "."); len(parts) > 2 {
				weight = parts[len(parts)-2] // of blk.N.name.weight
			}
			name += []string{"", "+"}[min(j, 1)] + strings.TrimSuffix(weight, ".weight")
		}
		s.entry = slices.IndexFunc(*p, func(e engine.ProfileEntry) bool { return e.Name == name })
		if s.entry < 0 {
			s.entry = len(*p)
			*p = append(*p, engine.ProfileEntry{Name: name})
		}
	}
}

func (p profile) add(s *stage, d time.Duration) {
	e := &p[s.entry]
	e.Calls++
	e.Time += d
	for i := range s.products {
		e.Bytes += s.products[i].m.readBytes()
	}
}

// readBytes returns the bytes of weights that a product of one token, or a batch of them, reads.
func (m *matrix) readBytes() float64 {
	switch p := m.packed; {
	case p != nil:
		scales := len(p.blocks.scale) + len(p.blocks.add)
		fine := 0
		if p.fine != nil {
			fine = len(p.fine.nibble) + len(p.fine.bits)
		}
		return float64(fine + len(p.nibble) + len(p.bits) + len(p.escape) + 2*(len(p.mostEscapes)+len(p.correct)) + 4*(len(p.correctStart)+len(p.escapeStart)+len(p.sparse)+len(p.start)+scales))
	case m.isResident():
		return float64(m.residentBytes())
	}
	stored := int64(0)
	for _, part := range format.CompactParts() { // expanded when the file was opened
		stored += m.tensor.Parts[part][1]
	}
	return float64(m.tensor.Bytes - stored + m.coded.Expanded())
}

// Profile implements engine.Profiler. Products read weights as often as there are batches.
func (b *Backend) Profile() []engine.ProfileEntry {
	all := slices.DeleteFunc(slices.Clone(b.profile), func(e engine.ProfileEntry) bool { return e.Calls == 0 })
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(x, y engine.ProfileEntry) int { return int(y.Time - x.Time) })
	return all
}

// ResetProfile implements engine.Profiler.
func (b *Backend) ResetProfile() {
	for i := range b.profile {
		b.profile[i] = engine.ProfileEntry{Name: b.profile[i].Name}
	}
}
