package main

import (
	"fmt"
	"strings"
)

// x is a general register, v a vector register.
type (
	x int
	v int
)

// function is one assembly function. Go's assembler lacks many vector instructions: all of them are written as machine words,
// with the mnemonic of the ARM manual beside them. What moves addresses, counts and branches is in Go's syntax.
type function struct {
	name, doc string
	body      strings.Builder
}

// word emits an instruction from its fixed bits and its registers: rd, rn and rm in bits 0, 5 and 16.
func (f *function) word(bits uint32, rd, rn, rm int, text string, args ...any) {
	bits |= uint32(rm)<<16 | uint32(rn)<<5 | uint32(rd)
	fmt.Fprintf(&f.body, "\tWORD $0x%08x // %s\n", bits, fmt.Sprintf(text, args...))
}

// raw emits a line in Go's syntax.
func (f *function) raw(text string, args ...any) { fmt.Fprintf(&f.body, "\t"+text+"\n", args...) }

func (f *function) label(name string) { fmt.Fprintf(&f.body, "%s:\n", name) }

// three emits "name rd.d, rn.n, rm.m".
func (f *function) three(bits uint32, name string, rd, rn, rm v, d, n, m string) {
	f.word(bits, int(rd), int(rn), int(rm), "%s v%d.%s, v%d.%s, v%d.%s", name, rd, d, rn, n, rm, m)
}

// two emits "name rd.d, rn.n" and, if given, a third operand.
func (f *function) two(bits uint32, name string, rd, rn v, d, n, rest string) {
	f.word(bits, int(rd), int(rn), 0, "%s v%d.%s, v%d.%s%s", name, rd, d, rn, n, rest)
}

// Loads and stores; offsets are in bytes.

func (f *function) ldrQ(t v, n x, offset int) {
	f.word(0x3dc00000|uint32(offset/16)<<10, int(t), int(n), 0, "ldr q%d, [x%d, #%d]", t, n, offset)
}

func (f *function) ldrD(t v, n x, offset int) {
	f.word(0xfd400000|uint32(offset/8)<<10, int(t), int(n), 0, "ldr d%d, [x%d, #%d]", t, n, offset)
}

func (f *function) strQ(t v, n x, offset int) {
	f.word(0x3d800000|uint32(offset/16)<<10, int(t), int(n), 0, "str q%d, [x%d, #%d]", t, n, offset)
}

func (f *function) strD(t v, n x, offset int) {
	f.word(0xfd000000|uint32(offset/8)<<10, int(t), int(n), 0, "str d%d, [x%d, #%d]", t, n, offset)
}

func (f *function) strS(t v, n x, offset int) {
	f.word(0xbd000000|uint32(offset/4)<<10, int(t), int(n), 0, "str s%d, [x%d, #%d]", t, n, offset)
}

func (f *function) ldpQ(t, u v, n x, offset int) {
	f.word(0xad400000|uint32(offset/16)&0x7f<<15|uint32(u)<<10, int(t), int(n), 0, "ldp q%d, q%d, [x%d, #%d]", t, u, n, offset)
}

func (f *function) stpQ(t, u v, n x, offset int) {
	f.word(0xad000000|uint32(offset/16)&0x7f<<15|uint32(u)<<10, int(t), int(n), 0, "stp q%d, q%d, [x%d, #%d]", t, u, n, offset)
}

// ldrTwice loads 64 bits into both halves.
func (f *function) ldrTwice(t v, n x) {
	f.word(0x4d40cc00, int(t), int(n), 0, "ld1r { v%d.2d }, [x%d]", t, n)
}

// ldrRepeated loads 32 bits into all four elements.
func (f *function) ldrRepeated(t v, n x) {
	f.word(0x4d40c800, int(t), int(n), 0, "ld1r { v%d.4s }, [x%d]", t, n)
}

// Bits and bytes.

func (f *function) zero(d v) { f.word(0x6f00e400, int(d), 0, 0, "movi v%d.2d, #0", d) }

// bytes sets all bytes to n.
func (f *function) bytes(d v, n int) {
	f.word(0x4f00e400|uint32(n>>5)<<16|uint32(n&31)<<5, int(d), 0, 0, "movi v%d.16b, #%d", d, n)
}

func (f *function) and(d, n, m v) { f.three(0x4e201c00, "and", d, n, m, "16b", "16b", "16b") }
func (f *function) orr(d, n, m v) { f.three(0x4ea01c00, "orr", d, n, m, "16b", "16b", "16b") }

// test sets the bytes of d to −1 where n and m have a common bit, otherwise to 0.
func (f *function) test(d, n, m v) { f.three(0x4e208c00, "cmtst", d, n, m, "16b", "16b", "16b") }

func (f *function) shiftBytes(d, n v, right int) {
	f.two(0x6f000400|uint32(16-right)<<16, "ushr", d, n, "16b", "16b", fmt.Sprintf(", #%d", right))
}

// insert replaces the upper bits of each byte of d, from bit `left` on, by the lowest ones of n.
func (f *function) insert(d, n v, left int) {
	f.two(0x6f005400|uint32(8+left)<<16, "sli", d, n, "16b", "16b", fmt.Sprintf(", #%d", left))
}

func (f *function) not(d, n v) { f.two(0x6e205800, "mvn", d, n, "16b", "16b", "") }

func (f *function) shiftBytesLeft(d, n v, left int) {
	f.two(0x4f005400|uint32(8+left)<<16, "shl", d, n, "16b", "16b", fmt.Sprintf(", #%d", left))
}

// Widening and narrowing; high takes the upper half of the narrow operand.

var halves = map[bool]string{false: "", true: "2"}

// pick returns the bits of an instruction on the lower or upper halves, and the arrangement of these.
func pick(bits uint32, high bool, low, full string) (uint32, string) {
	if high {
		return bits | 1<<30, full
	}
	return bits, low
}

func (f *function) widenBytes(d, n v, signed, high bool) {
	fixed, name := uint32(0x2f08a400), "ushll"
	if signed {
		fixed, name = 0x0f08a400, "sshll"
	}
	bits, a := pick(fixed, high, "8b", "16b")
	f.two(bits, name+halves[high], d, n, "8h", a, ", #0")
}

// highBytes sets 16-bit numbers to bytes times 256.
func (f *function) highBytes(d, n v, high bool) {
	bits, a := pick(0x2e213800, high, "8b", "16b")
	f.two(bits, "shll"+halves[high], d, n, "8h", a, ", #8")
}

// addWide adds signed bytes to 16-bit numbers.
func (f *function) addWide(d, n, m v, high bool) {
	bits, a := pick(0x0e201000, high, "8b", "16b")
	f.three(bits, "saddw"+halves[high], d, n, m, "8h", "8h", a)
}

// narrow keeps the lower halves of 32-bit numbers.
func (f *function) narrow(d, n v, high bool) {
	bits, a := pick(0x0e612800, high, "4h", "8h")
	f.two(bits, "xtn"+halves[high], d, n, a, "4s", "")
}

// narrowHalves keeps the lower bytes of 16-bit numbers.
func (f *function) narrowHalves(d, n v, high bool) {
	bits, a := pick(0x0e212800, high, "8b", "16b")
	f.two(bits, "xtn"+halves[high], d, n, a, "8h", "")
}

// roundHalves divides 16-bit numbers by 256 and rounds to the nearest byte, up from the middle.
func (f *function) roundHalves(d, n v, high bool) {
	bits, a := pick(0x0f088c00, high, "8b", "16b")
	f.two(bits, "rshrn"+halves[high], d, n, a, "8h", ", #8")
}

// Whole numbers.

// mul sets d to products of four 16-bit numbers, mac adds them.
func (f *function) mul(d, n, m v, high bool) {
	bits, a := pick(0x0e60c000, high, "4h", "8h")
	f.three(bits, "smull"+halves[high], d, n, m, "4s", a, a)
}

func (f *function) mac(d, n, m v, high bool) {
	bits, a := pick(0x0e608000, high, "4h", "8h")
	f.three(bits, "smlal"+halves[high], d, n, m, "4s", a, a)
}

func (f *function) addInts(d, n, m v) { f.three(0x4ea08400, "add", d, n, m, "4s", "4s", "4s") }

// pairInts sets d to sums of two neighbours in 64 bits, addPairInts adds them; addLast adds the two halves.
func (f *function) pairInts(d, n v)    { f.two(0x4ea02800, "saddlp", d, n, "2d", "4s", "") }
func (f *function) addPairInts(d, n v) { f.two(0x4ea06800, "sadalp", d, n, "2d", "4s", "") }
func (f *function) addLast(d, n v) {
	f.word(0x5ef1b800, int(d), int(n), 0, "addp d%d, v%d.2d", d, n)
}

// addPairHalves adds sums of two neighbouring 16-bit numbers to 32-bit ones.
func (f *function) addPairHalves(d, n v) { f.two(0x4e606800, "sadalp", d, n, "4s", "8h", "") }

// widenHalves extends the sign of 16-bit numbers.
func (f *function) widenHalves(d, n v, high bool) {
	bits, a := pick(0x0f10a400, high, "4h", "8h")
	f.two(bits, "sshll"+halves[high], d, n, "4s", a, ", #0")
}

func (f *function) shiftIntsLeft(d, n v, left int) {
	f.two(0x4f005400|uint32(32+left)<<16, "shl", d, n, "4s", "4s", fmt.Sprintf(", #%d", left))
}

// Floating point.

// fromHalf widens float16 numbers.
func (f *function) fromHalf(d, n v, high bool) {
	bits, a := pick(0x0e217800, high, "4h", "8h")
	f.two(bits, "fcvtl"+halves[high], d, n, "4s", a, "")
}

func (f *function) round(d, n v)       { f.two(0x4e218800, "frintn", d, n, "4s", "4s", "") }
func (f *function) fneg(d, n v)        { f.two(0x6ea0f800, "fneg", d, n, "4s", "4s", "") }
func (f *function) fsub(d, n, m v)     { f.three(0x4ea0d400, "fsub", d, n, m, "4s", "4s", "4s") }
func (f *function) fdiv(d, n, m v)     { f.three(0x6e20fc00, "fdiv", d, n, m, "4s", "4s", "4s") }
func (f *function) fmin(d, n, m v)     { f.three(0x4ea0f400, "fmin", d, n, m, "4s", "4s", "4s") }
func (f *function) fmsub(d, n, m v)    { f.three(0x4ea0cc00, "fmls", d, n, m, "4s", "4s", "4s") }
func (f *function) fatLeast(d, n, m v) { f.three(0x6e20e400, "fcmge", d, n, m, "4s", "4s", "4s") }

func (f *function) toFloat(d, n v)   { f.two(0x4e21d800, "scvtf", d, n, "4s", "4s", "") }
func (f *function) fromFloat(d, n v) { f.two(0x4e21a800, "fcvtns", d, n, "4s", "4s", "") }
func (f *function) fabs(d, n v)      { f.two(0x4ea0f800, "fabs", d, n, "4s", "4s", "") }
func (f *function) fmax(d, n, m v)   { f.three(0x4e20f400, "fmax", d, n, m, "4s", "4s", "4s") }
func (f *function) fadd(d, n, m v)   { f.three(0x4e20d400, "fadd", d, n, m, "4s", "4s", "4s") }
func (f *function) fpairs(d, n, m v) { f.three(0x6e20d400, "faddp", d, n, m, "4s", "4s", "4s") }
func (f *function) fmul(d, n, m v)   { f.three(0x6e20dc00, "fmul", d, n, m, "4s", "4s", "4s") }
func (f *function) fmac(d, n, m v)   { f.three(0x4e20cc00, "fmla", d, n, m, "4s", "4s", "4s") }

func (f *function) fmaxAll(d, n v) { f.word(0x6e30f800, int(d), int(n), 0, "fmaxv s%d, v%d.4s", d, n) }

// fmacBy adds n times element i of m.
func (f *function) fmacBy(d, n, m v, i int) {
	f.word(0x4f801000|uint32(i&1)<<21|uint32(i>>1)<<11, int(d), int(n), int(m), "fmla v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, i)
}
