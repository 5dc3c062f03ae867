package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Type codes of metadata values.
const (
	kindUint8 uint32 = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

const maxKey = 1<<16 - 1 // bytes of a key, by the GGUF specification

// cursor walks over encoded bytes; every read is checked against what is left.
type cursor struct {
	b   []byte
	pos int
}

func (c *cursor) errorf(format string, args ...any) error {
	return fmt.Errorf("at offset %d: %s", c.pos, fmt.Sprintf(format, args...))
}

// take returns the next n·size bytes.
func (c *cursor) take(n uint64, size int, what string) ([]byte, error) {
	if left := len(c.b) - c.pos; n > uint64(left/size) {
		return nil, c.errorf("%s needs %d × %d bytes, %d are left (truncated or damaged file)", what, n, size, left)
	}
	p := c.b[c.pos:][:int(n)*size]
	c.pos += len(p)
	return p, nil
}

func (c *cursor) u32(what string) (uint32, error) {
	b, err := c.take(1, 4, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) u64(what string) (uint64, error) {
	b, err := c.take(1, 8, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (c *cursor) str(what string) (string, error) {
	n, err := c.u64("length of " + what)
	if err != nil {
		return "", err
	}
	b, err := c.take(n, 1, what)
	return string(b), err
}

// keyValue reads a key, the type of its value, and the value as a Go value (see Metadata).
func (c *cursor) keyValue() (key string, value any, err error) {
	if key, err = c.str("a metadata key"); err != nil {
		return "", nil, err
	}
	if key == "" || len(key) > maxKey {
		return "", nil, c.errorf("a metadata key has %d bytes, expected 1 … %d", len(key), maxKey)
	}
	what := fmt.Sprintf("metadata value %.60q", key)
	kind, err := c.u32(what)
	if err != nil {
		return "", nil, err
	}
	if kind != kindArray {
		value, err = c.value(kind, 1, false, what)
		return key, value, err
	}
	if kind, err = c.u32(what); err != nil {
		return "", nil, err
	}
	n, err := c.u64(what)
	if err != nil {
		return "", nil, err
	}
	value, err = c.value(kind, n, true, what)
	return key, value, err
}

// value reads n values of a kind: a slice for an array, else the only one.
func (c *cursor) value(kind uint32, n uint64, array bool, what string) (any, error) {
	switch kind {
	case kindUint8:
		return numbers[uint8](c, n, array, what)
	case kindInt8:
		return numbers[int8](c, n, array, what)
	case kindUint16:
		return numbers[uint16](c, n, array, what)
	case kindInt16:
		return numbers[int16](c, n, array, what)
	case kindUint32:
		return numbers[uint32](c, n, array, what)
	case kindInt32:
		return numbers[int32](c, n, array, what)
	case kindFloat32:
		return numbers[float32](c, n, array, what)
	case kindBool:
		return numbers[bool](c, n, array, what)
	case kindString:
		return c.stringValue(n, array, what)
	case kindUint64:
		return numbers[uint64](c, n, array, what)
	case kindInt64:
		return numbers[int64](c, n, array, what)
	case kindFloat64:
		return numbers[float64](c, n, array, what)
	}
	if kind == kindArray {
		return nil, c.errorf("%s is an array of arrays, which is not supported", what)
	}
	return nil, c.errorf("%s has the unknown type %d (damaged file, or a GGUF newer than this program)", what, kind)
}

func numbers[T any](c *cursor, n uint64, array bool, what string) (any, error) {
	var one [1]T
	size := binary.Size(one[:])
	b, err := c.take(n, size, what)
	if err != nil {
		return nil, err
	}
	out := one[:]
	if array {
		out = make([]T, n)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, out); err != nil {
		return nil, c.errorf("%s: %v", what, err)
	}
	if array {
		return out, nil
	}
	return out[0], nil
}

func (c *cursor) stringValue(n uint64, array bool, what string) (any, error) {
	if !array {
		return c.str(what)
	}
	if left := len(c.b) - c.pos; n > uint64(left/8) { // a string takes at least its length
		return nil, c.errorf("%s has %d strings, but %d bytes are left (truncated or damaged file)", what, n, left)
	}
	out := make([]string, n)
	for i := range out {
		s, err := c.str(what)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

// kindOf returns the type code of a metadata value, or of an array's elements.
func kindOf(v any) (kind uint32, array, ok bool) {
	switch v.(type) {
	case uint8, []uint8:
		kind = kindUint8
	case int8, []int8:
		kind = kindInt8
	case uint16, []uint16:
		kind = kindUint16
	case int16, []int16:
		kind = kindInt16
	case uint32, []uint32:
		kind = kindUint32
	case int32, []int32:
		kind = kindInt32
	case float32, []float32:
		kind = kindFloat32
	case bool, []bool:
		kind = kindBool
	case string, []string:
		kind = kindString
	case uint64, []uint64:
		kind = kindUint64
	case int64, []int64:
		kind = kindInt64
	case float64, []float64:
		kind = kindFloat64
	default:
		return 0, false, false
	}
	switch v.(type) {
	case []uint8, []int8, []uint16, []int16, []uint32, []int32, []float32, []bool, []string, []uint64, []int64, []float64:
		array = true
	}
	return kind, array, true
}

// arrayLen returns the length of a value for which kindOf says array.
func arrayLen(v any) int {
	if s, ok := v.([]string); ok {
		return len(s)
	}
	kind, _, _ := kindOf(v)
	return binary.Size(v) / kindSize(kind)
}

func kindSize(kind uint32) int {
	switch kind {
	case kindUint8, kindInt8, kindBool:
		return 1
	case kindUint16, kindInt16:
		return 2
	case kindUint64, kindInt64, kindFloat64:
		return 8
	}
	return 4
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// appendKeyValue encodes one pair.
func appendKeyValue(b []byte, key string, v any) ([]byte, error) {
	kind, array, ok := kindOf(v)
	if !ok {
		return nil, fmt.Errorf("metadata value %q has Go type %T, which GGUF cannot hold", key, v)
	}
	le := binary.LittleEndian
	b = appendString(b, key)
	if array {
		b = le.AppendUint32(b, kindArray)
	}
	b = le.AppendUint32(b, kind)
	if array {
		b = le.AppendUint64(b, uint64(arrayLen(v)))
	}
	switch v := v.(type) {
	case string:
		return appendString(b, v), nil
	case []string:
		for _, s := range v {
			b = appendString(b, s)
		}
		return b, nil
	}
	return binary.Append(b, le, v)
}

// asInt converts an integer value of any width.
func asInt(v any) (int, bool) {
	switch v := v.(type) {
	case uint8:
		return int(v), true
	case int8:
		return int(v), true
	case uint16:
		return int(v), true
	case int16:
		return int(v), true
	case uint32:
		return int(v), uint64(v) <= math.MaxInt
	case int32:
		return int(v), true
	case uint64:
		return int(v), v <= math.MaxInt
	case int64:
		return int(v), int64(int(v)) == v
	case float32:
		return int(v), float32(int(v)) == v && math.Abs(float64(v)) < 1<<24
	case float64:
		return int(v), float64(int(v)) == v && math.Abs(v) < 1<<53
	}
	return sameOfAll(v, asInt)
}

// sameOfAll returns the value of an array whose entries are all equal: what some writers store for each layer.
func sameOfAll[T comparable](v any, convert func(any) (T, bool)) (out T, ok bool) {
	list, ok := items(v)
	for i, x := range list {
		y, good := convert(x)
		if !good || i > 0 && y != out {
			return out, false
		}
		out = y
	}
	return out, ok && len(list) > 0
}

// asFloat accepts numbers of any type.
func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float32:
		return float64(v), true
	case float64:
		return v, true
	case bool, string:
		return 0, false
	}
	if _, array := items(v); array {
		return sameOfAll(v, asFloat)
	}
	n, ok := asInt(v)
	return float64(n), ok
}

// asBool accepts booleans and the numbers 0 and 1.
func asBool(v any) (bool, bool) {
	if b, ok := v.(bool); ok {
		return b, true
	}
	n, ok := asInt(v)
	return n == 1, ok && (n == 0 || n == 1)
}

// items returns the elements of an array of numbers.
func items(v any) ([]any, bool) {
	switch v := v.(type) {
	case []uint8:
		return boxed(v), true
	case []int8:
		return boxed(v), true
	case []uint16:
		return boxed(v), true
	case []int16:
		return boxed(v), true
	case []uint32:
		return boxed(v), true
	case []int32:
		return boxed(v), true
	case []uint64:
		return boxed(v), true
	case []int64:
		return boxed(v), true
	case []float32:
		return boxed(v), true
	case []float64:
		return boxed(v), true
	}
	return nil, false
}

func boxed[T any](v []T) []any {
	out := make([]any, len(v))
	for i, x := range v {
		out[i] = x
	}
	return out
}

// each converts all elements of an array of numbers.
func each[T, U any](v any, convert func(any) (U, bool), to func(U) (T, bool)) ([]T, bool) {
	list, ok := items(v)
	if !ok {
		return nil, false
	}
	out := make([]T, len(list))
	for i, x := range list {
		y, good := convert(x)
		if !good {
			return nil, false
		}
		if out[i], good = to(y); !good {
			return nil, false
		}
	}
	return out, true
}
