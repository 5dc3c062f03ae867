package cpu

// arena hands out the memory of resident matrices, piece by piece from large blocks: most matrices are too small for large pages of their own.
type arena struct{ free []byte }

const (
	arenaBlock = 32 << 20
	arenaAlign = 64 // bytes of a cache line
)

// take returns n zeroed bytes.
func (a *arena) take(n int) []byte {
	size := roundUp(n, arenaAlign)
	if size > arenaBlock/2 {
		return planes(n)
	}
	if size > len(a.free) {
		a.free = planes(arenaBlock)
	}
	p := a.free[:n:size]
	a.free = a.free[size:]
	return p
}
