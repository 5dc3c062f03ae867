package format

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

func decodeTables(b []byte) ([]*huffman.Table, error) {
	if len(b) < 4 {
		return nil, errors.New("section is missing or shorter than its count")
	}
	n := binary.LittleEndian.Uint32(b)
	if n > maxTables {
		return nil, fmt.Errorf("%d tables, at most %d are allowed", n, maxTables)
	}
	b = b[4:]
	var tables []*huffman.Table
	for i := range n {
		if len(b) < 2 {
			return nil, fmt.Errorf("table %d of %d is cut off", i, n)
		}
		t := &huffman.Table{Levels: int(b[0]), MaxLen: int(b[1])}
		b = b[2:]
		if t.Levels > huffman.MaxLevels || len(b) < (t.Levels*t.Levels+1)/2 {
			return nil, fmt.Errorf("table %d with %d levels is cut off or too large", i, t.Levels)
		}
		t.Lens = make([]uint8, t.Levels*t.Levels)
		for s := range t.Lens {
			t.Lens[s] = b[s/2] >> (4 * (s % 2)) & 15
		}
		b = b[(t.Levels*t.Levels+1)/2:]
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("table %d: %w", i, err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func encodeTables(tables []*huffman.Table) ([]byte, error) {
	if len(tables) > maxTables {
		return nil, fmt.Errorf("%d code tables, at most %d fit", len(tables), maxTables)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(tables)))
	for i, t := range tables {
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("code table %d: %w", i, err)
		}
		b = append(b, uint8(t.Levels), uint8(t.MaxLen))
		nibbles := make([]byte, (len(t.Lens)+1)/2)
		for s, n := range t.Lens {
			nibbles[s/2] |= n << (4 * (s % 2))
		}
		b = append(b, nibbles...)
	}
	return b, nil
}
