// Package infile opens input files. What is not a regular file is refused before it is opened: a pipe would wait for its other
// end.
package infile

import (
	"fmt"
	"io"
	"os"
)

// Open opens a regular file for reading.
func Open(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is a directory, device or pipe, expected a file", path)
	}
	return os.Open(path)
}

// ReadAll reads a regular file of at most limit bytes.
func ReadAll(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s: has %d bytes, expected at most %d", path, st.Size(), limit)
	}
	b := make([]byte, st.Size())
	n, err := io.ReadFull(f, b)
	if err == io.ErrUnexpectedEOF || err == io.EOF { // it shrank meanwhile
		return b[:n], nil
	}
	return b, err
}
