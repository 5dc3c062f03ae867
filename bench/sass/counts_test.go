package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestClassOf(t *testing.T) {
	for op, class := range map[string]string{
		"HFMA2.MMA": "half", "FFMA": "fp32", "LOP3.LUT": "int", "SHF.R.W": "shift", "IMAD.WIDE.U32": "mul",
		"F2F.F32.F16": "convert", "MUFU.EX2": "special",
		"LDS": "shared", "LDS.U.128": "shared_wide", "LDG.E.128.CONSTANT": "global", "BRA": "control", "ULDC.64": "control",
	} {
		assert.Equal(t, class, classOf(op), op)
	}
}
