package codec

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// FuzzRoundTrip codes arbitrary integers with arbitrary geometry.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint16(3), uint8(16), uint8(0), uint8(2), []byte{1, 2, 3, 250, 7, 0, 0, 0, 9, 200, 100, 50})
	f.Add(uint16(65), uint8(32), uint8(3), uint8(1), make([]byte, 300))
	f.Add(uint16(2100), uint8(2), uint8(11), uint8(7), make([]byte, 4300))
	f.Fuzz(func(t *testing.T, cols uint16, levels, low, group uint8, data []byte) {
		n := int(cols)%3000 + 1
		if len(data) < n || len(data) > 1<<16 {
			return
		}
		k := format.Coding{Levels: 2 + int(levels)%31, LowBits: int(low) % (format.MaxLowBits + 1),
			RowsPerGroup: 1 + int(group)%format.MaxRowsPerGroup}
		m := &Matrix{Rows: len(data) / n, Cols: n, Coding: k, Scale: format.Scale{Kind: format.ScaleTensor}}
		for i := range m.Rows * n {
			// Mostly small integers, a few far away.
			q := int32(int8(data[i]))
			if data[i] == 0x55 {
				q *= 1000
			}
			m.Codes = append(m.Codes, q)
		}
		c, tables, err := EncodeMatrix(m)
		require.NoError(t, err)
		d, err := NewDecoder(c, tables)
		require.NoError(t, err)
		require.Equal(t, m.Codes, decodeCodes(t, m, c, d))
	})
}

// FuzzDecodeDamaged decodes a stream with arbitrary changes: an error or wrong weights, but nothing worse.
func FuzzDecodeDamaged(f *testing.F) {
	f.Add([]byte{0, 0, 1}, []byte{3, 200})
	f.Fuzz(func(t *testing.T, stream, directory []byte) {
		m := &Matrix{Rows: 9, Cols: 130, Coding: format.Coding{Levels: 16, LowBits: 2, RowsPerGroup: 4},
			Scale: format.Scale{Kind: format.ScaleTensor}}
		for i := range m.Rows * m.Cols {
			m.Codes = append(m.Codes, int32(i*i%67))
		}
		c, tables, err := EncodeMatrix(m)
		require.NoError(t, err)
		for i, b := range stream {
			c.Stream[i*7919%len(c.Stream)] ^= uint32(b) << (i % 25)
		}
		for i, b := range directory {
			c.MainWords[i%len(c.MainWords)] += uint16(b)
			c.LaneTail[i*31%len(c.LaneTail)] += b
		}
		d, err := NewDecoder(c, tables)
		require.NoError(t, err)
		for g := range c.Groups() {
			if _, _, err := d.Group(g, nil, nil); err != nil {
				return
			}
		}
	})
}
