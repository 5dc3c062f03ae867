package engine

import "strings"

// stopFilter passes text on except what may still become a stop string.
type stopFilter struct {
	stops   []string
	emit    func(string) // may be nil
	pending string
	text    strings.Builder // everything emitted
}

// add appends text and reports whether a stop string is complete. The stop string and what follows it are dropped.
func (t *stopFilter) add(text string) bool {
	t.pending += text
	if at := t.findStop(); at >= 0 {
		t.pending = t.pending[:at]
		t.flush()
		return true
	}
	t.release(len(t.pending) - t.stopPrefix())
	return false
}

// flush emits what was held back.
func (t *stopFilter) flush() { t.release(len(t.pending)) }

func (t *stopFilter) release(n int) {
	if n == 0 {
		return
	}
	s := t.pending[:n]
	t.pending = t.pending[n:]
	t.text.WriteString(s)
	if t.emit != nil {
		t.emit(s)
	}
}

// findStop returns where the earliest stop string begins, or −1.
func (t *stopFilter) findStop() int {
	first := -1
	for _, s := range t.stops {
		if at := strings.Index(t.pending, s); s != "" && at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	return first
}

// stopPrefix returns the length of the longest tail that is the beginning of a stop string.
func (t *stopFilter) stopPrefix() int {
	longest := 0
	for _, s := range t.stops {
		for n := min(len(s)-1, len(t.pending)); n > longest; n-- {
			if strings.HasSuffix(t.pending, s[:n]) {
				longest = n
			}
		}
	}
	return longest
}
