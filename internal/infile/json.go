package infile

import (
	"encoding/json"
	"fmt"
)

// CheckJSON refuses JSON that would take much more memory decoded than it has bytes: a list of empty objects takes twenty times
// as much. Real files have an object for hundreds of bytes (a tensor, an added token), an array for ten at least (a merge), and a
// value for five.
func CheckJSON(b []byte) error {
	const few = 4096 // in any file
	objects, arrays, values := len(b)/32+few, len(b)/8+few, len(b)/5+16*few
	inString := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			objects--
		case c == '[':
			arrays--
		case c == ',':
			values--
		}
		if objects < 0 || arrays < 0 || values < 0 {
			return fmt.Errorf("offset %d: too many small objects, arrays or values for %d bytes of JSON", i, len(b))
		}
	}
	return nil
}

// DecodeJSON is json.Unmarshal for text that CheckJSON accepts.
func DecodeJSON(b []byte, v any) error {
	if err := CheckJSON(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
