//go:build !amd64

package decode

// Best returns the fastest decoder of this processor.
func Best() ISA { return Generic }

// Without assembly these are never reached: Best is the only source of another ISA than Generic.

func decodeAVX512(c *chunk, dst []byte, stride int) { decodeGeneric(c, dst, stride) }
func decodeAVX2(c *chunk, dst []byte, stride int)   { decodeGeneric(c, dst, stride) }
func lowAVX512(c *chunk, dst []byte, stride int)    { lowGeneric(c, dst, stride) }
func lowAVX2(c *chunk, dst []byte, stride int)      { lowGeneric(c, dst, stride) }
