// Command asm generates the project's Go assembly for amd64 with avo; command arm64 beside it the one for arm64. It is a module
// of its own, so that avo stays out of the product's dependencies.
//
//	go run . decode -out ../../cpu/decode/chunk_amd64.s -stubs ../../cpu/decode/chunk_amd64.go -pkg decode
//	go run . dot -out ../../cpu/dot/dot_amd64.s -stubs ../../cpu/dot/dot_amd64.go -pkg dot
//	go run . linalg -out ../../internal/linalg/gemm_amd64.s -stubs ../../internal/linalg/gemm_amd64.go -pkg linalg
//
// Beside the stubs it writes args_amd64.go, which checks the offsets of the argument structures.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: asm decode|dot|linalg [avo flags]")
		os.Exit(2)
	}
	what := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	ConstraintExpr("amd64")
	switch what {
	case "decode":
		chunk512()
		rowLanes()
		splitLanes()
		low512()
		low256()
	case "dot":
		dots()
	case "linalg":
		gemmF32("gemm512", "AVX-512", 8, 64, func() VecVirtual { return ZMM() })
		gemmF32("gemm256", "AVX2", 4, 32, func() VecVirtual { return YMM() })
	}
	Generate()
	if stubs := flag.Lookup("stubs"); stubs != nil && stubs.Value.String() != "" {
		if err := writeLayouts(what, filepath.Dir(stubs.Value.String())); err != nil {
			fmt.Fprintln(os.Stderr, "asm:", err)
			os.Exit(1)
		}
	}
}

// dots generates package dot's kernels.
func dots() {
	blocks16, blocks32 := blockNumbers(16), blockNumbers(32)
	avx2 := newAVX2Consts()
	for _, width := range []int{8, 4, 5, 6} {
		dot512(width)
		dot256(width, avx2)
		dotBlock512(width, 16, blocks16)
		dotBlock512(width, 32, blocks32)
		dotBlock256(width, 16, avx2, blocks16)
		dotBlock256(width, 32, avx2, blocks32)
		if width < 8 {
			pack512(width)
			unpack512(width)
			unpackRows512(width, nil)
			pack256(width, avx2)
			unpack256(width, avx2)
		}
	}
	for width := 3; width <= 6; width++ {
		table := escapeTable(width)
		dotEscape512(width, table)
		packEscape512(width)
		unpackRows512(width, &table)
	}
	for width := 4; width <= 7; width++ {
		dotBytes256(width, avx2)
	}
	narrow(avx2)
	join256()
	absMax512()
	split512()
	order := newPackOrder()
	split256(order)
	splitNarrow256(order, avx2)
	panel256()
	words256()
	addScaled256()
	addPairs256()
	raise256()
	correctRows256()
	fetchLines()
	for tokens := 1; tokens <= wordTokens512; tokens++ {
		gemmWords512(tokens)
	}
	for tokens := 1; tokens <= wordTokens256; tokens++ {
		gemmWords256(tokens)
	}
	for _, block := range []int{16, 32} {
		numbers := blocks16
		if block == 32 {
			numbers = blocks32
		}
		for tokens := 1; tokens <= 4; tokens++ {
			gemmBlock512(tokens, block, numbers)
		}
		gemmBlock256(block, false, avx2, numbers)
		gemmBlock256(block, true, avx2, numbers)
	}
}

// narrow generates package dot's kernels for 8-bit activations.
func narrow(c *avx2Consts) {
	for _, width := range []int{4, 5, 6, 8} {
		narrow256(fmt.Sprintf("narrow256w%d", width), width, width == 8, c)
	}
	for _, width := range []int{6, 7} {
		narrow256(fmt.Sprintf("narrow256b%d", width), width, true, c)
	}
	for tokens := 1; tokens <= 4; tokens++ {
		for _, width := range []int{6, 7, 8} {
			gemmNarrow256(tokens, width, c)
		}
	}
	stepMax256()
	joinNarrow256()
}
