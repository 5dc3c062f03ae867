package buffer

// Arena hands out the memory of resident matrices, piece by piece from large blocks: most matrices are too small for large pages
// of their own. Blocks double from the first one on, so that a small model takes little.
type Arena struct {
	free []byte
	last int // bytes of the newest block
}

const (
	firstBlock = 64 << 10
	arenaBlock = 32 << 20 // the largest
	arenaAlign = 64       // bytes of a cache line
)

// Take returns n zeroed bytes.
func (a *Arena) Take(n int) []byte {
	size := RoundUp(n, arenaAlign)
	if size > arenaBlock/2 {
		return largePages(n)
	}
	if size > len(a.free) {
		a.last = min(max(2*a.last, firstBlock), arenaBlock)
		for a.last < size {
			a.last *= 2
		}
		a.free = largePages(a.last)
	}
	p := a.free[:n:size]
	a.free = a.free[size:]
	return p
}
