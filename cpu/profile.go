package cpu

import (
	"slices"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// profile is what the operations of all Forward calls took, as seen by the caller.
type profile []engine.ProfileEntry

// entry returns the number of the entry with a name, made if there is none yet.
func (p *profile) entry(name string) int {
	i := slices.IndexFunc(*p, func(e engine.ProfileEntry) bool { return e.Name == name })
	if i < 0 {
		i = len(*p)
		*p = append(*p, engine.ProfileEntry{Name: name})
	}
	return i
}

// add counts a call that read some bytes of weights.
func (p profile) add(entry int, d time.Duration, bytes float64) {
	e := &p[entry]
	e.Calls++
	e.Time += d
	e.Bytes += bytes
}

// sorted returns the entries with calls, the longest time first.
func (p profile) sorted() []engine.ProfileEntry {
	all := slices.DeleteFunc(slices.Clone(p), func(e engine.ProfileEntry) bool { return e.Calls == 0 })
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(x, y engine.ProfileEntry) int { return int(y.Time - x.Time) })
	return all
}

func (p profile) reset() {
	for i := range p {
		p[i] = engine.ProfileEntry{Name: p[i].Name}
	}
}
