package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The instructions of a loop are those between its first one and the branch back.
func TestMainLoop(t *testing.T) {
	sass := []byte(`
	Function : gemm_half_u8
        /*0000*/                   MOV R1, c[0x0][0x20] ;
        /*0008*/                   LDG.E.128 R0, [R2] ;
        /*0010*/                   HFMA2 R4, R0, R1, R4 ;
        /*0018*/                   HFMA2 R4, R0, R1, R4 ;
        /*0020*/              @P0  BRA 0x8 ;
        /*0028*/                   EXIT ;
`)
	k := parseCode(sass)
	require.Len(t, k, 1)
	body, weights := mainLoop(k[0])
	assert.Len(t, body, 4)
	assert.Equal(t, 4, weights)
	assert.Equal(t, "4 / 4 = 1.00", costText(k[0]))
}

// What surrounds the main loop is counted from its end to its next beginning, by the shortest way.
func TestBetweenLoops(t *testing.T) {
	sass := []byte(`
	Function : gemv_fused_g2
        /*0000*/                   MOV R1, c[0x0][0x20] ;
        /*0008*/                   SSY 0x48 ;
        /*0010*/                   LDS.U.32 R0, [R2] ;
        /*0018*/                   SHF.R.W R3, R0, R1, R4 ;
        /*0020*/                   HFMA2 R4, R0, R1, R4 ;
        /*0028*/              @!P0 BRA 0x10 ;
        /*0030*/               @P1 SYNC ;
        /*0038*/                   MOV R3, R4 ;
        /*0040*/                   SYNC ;
        /*0048*/                   SHFL.BFLY PT, R3, R4, 0x10, 0x1f ;
        /*0050*/               @P2 BRA 0x8 ;
        /*0058*/                   EXIT ;
`)
	k := parseCode(sass)
	require.Len(t, k, 1)
	at, body, weights := findMainLoop(k[0])
	assert.Len(t, body, 4)
	assert.Equal(t, 2, weights)
	var ops []string
	for _, in := range betweenLoops(k[0].code, at) {
		ops = append(ops, in.op)
	}
	assert.ElementsMatch(t, []string{"SYNC", "SHFL.BFLY", "BRA", "SSY"}, ops)
	assert.Nil(t, betweenLoops(k[0].code[:10], at), "no loop around it")
}
