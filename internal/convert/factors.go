package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"github.com/edsrzf/mmap-go"

	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// factors is a temporary file of the factors of error feedback.
type factors struct {
	f    *os.File
	data mmap.MMap
	at   map[string][2]int64 // matrix → offset in the file and columns
	size int64
}

func newFactors(dir string) (*factors, error) {
	f, err := os.CreateTemp(dir, ".calibration*.tmp")
	if err != nil {
		return nil, err
	}
	// Nobody else needs its name, and what has none cannot remain.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &factors{f: f, at: map[string][2]int64{}}, nil
}

// Close frees the file.
func (f *factors) Close() error {
	if f == nil {
		return nil
	}
	var err error
	if f.data != nil {
		err = f.data.Unmap()
	}
	return errors.Join(err, f.f.Close())
}

// add writes a factor that the given matrices share.
func (f *factors) add(weights []string, x *quant.Feedback) error {
	b := make([]byte, 0, 1<<20)
	for i, v := range x.Factor {
		b = binary.NativeEndian.AppendUint32(b, math.Float32bits(v))
		if len(b)+4 > cap(b) || i == len(x.Factor)-1 {
			if _, err := f.f.Write(b); err != nil {
				return fmt.Errorf("cannot store what calibration found: %w", err)
			}
			b = b[:0]
		}
	}
	for _, w := range weights {
		f.at[w] = [2]int64{f.size, int64(x.Cols)}
	}
	f.size += 4 * int64(len(x.Factor))
	return nil
}

// ready ends writing.
func (f *factors) ready() error {
	if f.size == 0 {
		return nil
	}
	var err error
	if f.data, err = mmap.Map(f.f, mmap.RDONLY, 0); err != nil {
		return fmt.Errorf("%s: %w", f.f.Name(), err)
	}
	return nil
}

// get returns the factor of a matrix, or nil.
func (f *factors) get(weight string) *quant.Feedback {
	if f == nil {
		return nil
	}
	at, ok := f.at[weight]
	if !ok {
		return nil
	}
	n := quant.FactorLen(int(at[1]))
	b := f.data[at[0] : at[0]+4*int64(n)]
	return &quant.Feedback{Cols: int(at[1]), Factor: unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)}
}
