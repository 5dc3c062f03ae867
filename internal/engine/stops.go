package engine

import "bytes"

// stopFilter collects a sequence's text and holds back what may still become a stop string.
type stopFilter struct {
	stops    [][]byte
	text     []byte
	released int // bytes of text that cannot become part of a stop string
}

func newStopFilter(stops []string) stopFilter {
	var f stopFilter
	for _, s := range stops {
		if s != "" {
			f.stops = append(f.stops, []byte(s))
		}
	}
	return f
}

// check looks at what was appended to text. It reports whether a stop string is complete; the stop string and what follows it
// are dropped.
func (f *stopFilter) check() bool {
	pending := f.text[f.released:]
	if at := f.findStop(pending); at >= 0 {
		f.text = f.text[:f.released+at]
		f.flush()
		return true
	}
	f.released = len(f.text) - f.stopPrefix(pending)
	return false
}

// flush releases what was held back.
func (f *stopFilter) flush() { f.released = len(f.text) }

// findStop returns where the earliest stop string begins, or −1.
func (f *stopFilter) findStop(pending []byte) int {
	first := -1
	for _, s := range f.stops {
		if at := bytes.Index(pending, s); at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	return first
}

// stopPrefix returns the length of the longest tail that is the beginning of a stop string.
func (f *stopFilter) stopPrefix(pending []byte) int {
	longest := 0
	for _, s := range f.stops {
		for n := min(len(s)-1, len(pending)); n > longest; n-- {
			if bytes.HasSuffix(pending, s[:n]) {
				longest = n
			}
		}
	}
	return longest
}
