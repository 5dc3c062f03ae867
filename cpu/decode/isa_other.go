//go:build !amd64

package decode

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// Best returns the fastest decoder of this processor.
func Best() isa.ISA { return isa.Generic }

// Without assembly these are never reached: Best is the only source of another one than isa.Generic.

func decodeAVX512(c *chunk, dst []byte, stride int) { decodeGeneric(c, dst, stride) }
func decodeAVX2(c *chunk, dst []byte, stride int)   { decodeGeneric(c, dst, stride) }
func lowAVX512(c *chunk, dst []byte, stride int)    { lowGeneric(c, dst, stride) }
func lowAVX2(c *chunk, dst []byte, stride int)      { lowGeneric(c, dst, stride) }
