package gguf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrMissing is wrapped by the getters' errors for keys that are absent.
var ErrMissing = errors.New("missing")

// Metadata holds key–value pairs in order. Values are uint8 … uint64, int8 … int64, float32, float64, bool, string,
// or slices of these. The zero value is empty and ready to use.
type Metadata struct {
	keys   []string
	values map[string]any
}

// Keys returns the keys in file order. The slice must not be changed.
func (m *Metadata) Keys() []string { return m.keys }

// Get returns a value as stored.
func (m *Metadata) Get(key string) (any, bool) {
	v, ok := m.values[key]
	return v, ok
}

// Set adds a pair or replaces a value in place.
func (m *Metadata) Set(key string, value any) {
	if m.values == nil {
		m.values = map[string]any{}
	}
	if _, ok := m.values[key]; !ok {
		m.keys = append(m.keys, key)
	}
	m.values[key] = value
}

// Filter returns the pairs for whose keys keep is true. Values are shared with m.
func (m *Metadata) Filter(keep func(key string) bool) *Metadata {
	out := &Metadata{}
	for _, k := range m.keys {
		if keep(k) {
			out.Set(k, m.values[k])
		}
	}
	return out
}

// With returns m after setting the values that are not nil.
func (m *Metadata) With(values map[string]any) *Metadata {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if values[k] != nil {
			m.Set(k, values[k])
		}
	}
	return m
}

// Encode returns the pairs in GGUF's encoding, one after the other with nothing around them.
func (m *Metadata) Encode() ([]byte, error) {
	var b []byte
	for _, k := range m.keys {
		if k == "" || len(k) > maxKey {
			return nil, fmt.Errorf("metadata key %.60q has %d bytes, expected 1 … %d", k, len(k), maxKey)
		}
		var err error
		if b, err = appendKeyValue(b, k, m.values[k]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// DecodeMetadata is the inverse of Encode. It never allocates more than a small multiple of len(b).
func DecodeMetadata(b []byte) (*Metadata, error) {
	c, m := &cursor{b: b}, &Metadata{}
	for c.pos < len(b) {
		if err := m.decodeOne(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metadata) decodeOne(c *cursor) error {
	key, v, err := c.keyValue()
	if err != nil {
		return err
	}
	if _, twice := m.values[key]; twice {
		return c.errorf("metadata key %q occurs twice", key)
	}
	m.Set(key, v)
	return nil
}

// lookup returns a value that convert accepts.
func lookup[T any](m *Metadata, key, want string, convert func(any) (T, bool)) (T, error) {
	var zero T
	v, ok := m.values[key]
	if !ok {
		return zero, fmt.Errorf("metadata key %q is %w", key, ErrMissing)
	}
	out, ok := convert(v)
	if !ok {
		return zero, fmt.Errorf("metadata key %q is %s, expected %s", key, describe(v), want)
	}
	return out, nil
}

func describe(v any) string {
	if _, array, _ := kindOf(v); array {
		return fmt.Sprintf("an array of %d values (%T)", arrayLen(v), v)
	}
	return fmt.Sprintf("%.40q (%T)", fmt.Sprint(v), v)
}

// orDefault replaces the error for an absent key by a default.
func orDefault[T any](v T, err error, def T) (T, error) {
	if errors.Is(err, ErrMissing) {
		return def, nil
	}
	return v, err
}

func exactly[T any](v any) (T, bool) {
	out, ok := v.(T)
	return out, ok
}

// String returns a string value; the error wraps ErrMissing for an absent key, also in the other getters.
func (m *Metadata) String(key string) (string, error) {
	return lookup(m, key, "a string", exactly[string])
}

// StringOr is String with a default for an absent key.
func (m *Metadata) StringOr(key, def string) (string, error) {
	v, err := m.String(key)
	return orDefault(v, err, def)
}

// Strings returns an array of strings, which must not be changed.
func (m *Metadata) Strings(key string) ([]string, error) {
	return lookup(m, key, "an array of strings", exactly[[]string])
}

// Bool returns a boolean value.
func (m *Metadata) Bool(key string) (bool, error) {
	return lookup(m, key, "a boolean", asBool)
}

// BoolOr is Bool with a default for an absent key.
func (m *Metadata) BoolOr(key string, def bool) (bool, error) {
	v, err := m.Bool(key)
	return orDefault(v, err, def)
}

// Int returns an integer of any type that fits an int, or the entry of an array whose entries are all the same one.
func (m *Metadata) Int(key string) (int, error) {
	return lookup(m, key, "one integer", asInt)
}

// IntOr is Int with a default for an absent key.
func (m *Metadata) IntOr(key string, def int) (int, error) {
	v, err := m.Int(key)
	return orDefault(v, err, def)
}

// Float returns a number of any type, or the entry of an array whose entries are all the same one.
func (m *Metadata) Float(key string) (float64, error) {
	return lookup(m, key, "a floating-point number", asFloat)
}

// FloatOr is Float with a default for an absent key.
func (m *Metadata) FloatOr(key string, def float64) (float64, error) {
	v, err := m.Float(key)
	return orDefault(v, err, def)
}

// Float32s returns an array of numbers of any type, which must not be changed.
func (m *Metadata) Float32s(key string) ([]float32, error) {
	return lookup(m, key, "an array of float32", func(v any) ([]float32, bool) {
		if f, ok := v.([]float32); ok {
			return f, true
		}
		return each(v, asFloat, func(x float64) (float32, bool) { return float32(x), true })
	})
}

// Int32s returns an array of integers that fit 32 bits, signed or not.
func (m *Metadata) Int32s(key string) ([]int32, error) {
	return lookup(m, key, "an array of 32-bit integers", func(v any) ([]int32, bool) {
		switch v := v.(type) {
		case []int32:
			return slices.Clone(v), true
		case []uint32:
			out := make([]int32, len(v))
			for i, x := range v {
				out[i] = int32(x)
			}
			return out, true
		}
		return each(v, asInt, func(x int) (int32, bool) { return int32(x), int(int32(x)) == x })
	})
}
