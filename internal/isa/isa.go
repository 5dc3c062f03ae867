// Package isa names the instruction sets that vector code is written for. Which of them a processor runs is decided where the
// code is: a decoder and a product need different extensions of AVX-512.
package isa

// ISA is an instruction set. Of those of one processor family, a larger one is the faster one.
type ISA int

const (
	Generic ISA = iota // portable Go
	AVX2               // with FMA and BMI2
	AVX512             // F, BW, DQ, VL, and what else the code needs: VNNI, VBMI or VBMI2
	NEON               // of ARMv8.0-A
)

func (i ISA) String() string { return [...]string{"generic Go", "AVX2", "AVX-512", "NEON"}[i] }
