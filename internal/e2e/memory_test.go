package e2e_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/race"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// heapPeak returns by how many bytes the live heap grew at most while f ran, and what processor time it took. The collector runs
// often, and the heap is looked at every millisecond.
func heapPeak(f func()) (peak int64, used time.Duration) {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := int64(m.HeapAlloc)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			runtime.ReadMemStats(&m)
			peak = max(peak, int64(m.HeapAlloc)-before)
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	start := processorTime()
	f()
	used = processorTime() - start
	close(done)
	<-ended
	return peak, used
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for no argument that there is
	return time.Duration(u.Utime.Nano())
}

func repeated(before, part string, bytes int, after string) []byte {
	return []byte(before + strings.TrimSuffix(strings.Repeat(part, bytes/len(part)), ",") + after)
}

// numbered is repeated for parts with a number.
func numbered(before, part string, bytes int, after string) []byte {
	var b strings.Builder
	b.WriteString(before)
	for i := 0; b.Len() < bytes; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, part, i)
	}
	return []byte(b.String() + after)
}

// ggufWith writes a GGUF file with some metadata and many or no tensors.
func ggufWith(t *testing.T, dir string, change func(m *gguf.Metadata) []gguf.Tensor) []byte {
	m := &gguf.Metadata{}
	m.Set("general.architecture", "llama")
	tensors := change(m)
	path := filepath.Join(dir, "w.gguf")
	w, err := gguf.Create(path, m, tensors)
	require.NoError(t, err)
	for range tensors {
		require.NoError(t, w.WriteFloats([]float32{1}))
	}
	require.NoError(t, w.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func words(n int) (w []string) {
	for i := range n {
		w = append(w, fmt.Sprintf("%x", i))
	}
	return w
}

// bomb is a small file that may become large in memory.
type bomb struct {
	name string
	make func(bytes int) []byte
	open func(path string)
}

func bombs(t *testing.T, dir string) []bomb {
	openGGUF := func(path string) {
		if src, err := source.Open(path); err == nil {
			_, _ = src.Tokenizer()
			src.Close()
		}
		if f, err := gguf.Open(path); err == nil {
			f.Close()
		}
	}
	openJSON := func(path string) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		_, _ = tokenizer.FromHF(b, nil)
	}
	header := func(text []byte) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	}
	openSafetensors := func(path string) {
		if m, err := safetensors.Open(path); err == nil {
			m.Close()
		}
	}
	openImatrix := func(path string) { _, _ = imatrix.Read(path) }
	model, err := testmodel.WriteTo(dir)
	require.NoError(t, err)
	openCalibration := func(path string) {
		src, err := source.Open(model)
		require.NoError(t, err)
		defer src.Close()
		_ = convert.Check(src, convert.Options{Calibration: convert.Calibration{Saved: path}})
		_, err = convert.Compress(context.Background(), src, filepath.Join(dir, "out.ellm"),
			convert.Options{Calibration: convert.Calibration{Saved: path}}, nil)
		require.Error(t, err)
	}
	moments := func(text []byte) []byte {
		return append(binary.LittleEndian.AppendUint64(text, uint64(len(text))), "ELLMMOM1"...)
	}
	return []bomb{
		{"GGUF: tokens", func(n int) []byte {
			return ggufWith(t, dir, func(m *gguf.Metadata) []gguf.Tensor {
				m.Set("tokenizer.ggml.model", "gpt2")
				m.Set("tokenizer.ggml.tokens", words(min(n/13, 1<<19)))
				return nil
			})
		}, openGGUF},
		{"GGUF: empty strings", func(n int) []byte {
			return ggufWith(t, dir, func(m *gguf.Metadata) []gguf.Tensor {
				m.Set("x", make([]string, n/8))
				return nil
			})
		}, openGGUF},
		{"GGUF: tensors", func(n int) []byte {
			return ggufWith(t, dir, func(m *gguf.Metadata) (all []gguf.Tensor) {
				for _, w := range words(min(n/70, 1<<17)) {
					all = append(all, gguf.Tensor{Name: w, Dims: []uint64{1}, Type: gguf.F32})
				}
				return all
			})
		}, openGGUF},
		{"safetensors: tensors", func(n int) []byte {
			return header(numbered("{", `"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`, n, "}"))
		}, openSafetensors},
		{"safetensors: empty records", func(n int) []byte { return header(numbered("{", `"%d":{}`, n, "}")) }, openSafetensors},
		{"safetensors: dimensions", func(n int) []byte { return header(repeated(`{"a":{"shape":[`, "1,", n, "]}}")) }, openSafetensors},
		{"tokenizer.json: vocabulary", func(n int) []byte {
			return numbered(`{"model":{"type":"BPE","merges":[],"vocab":{`, `"%[1]d":%[1]d`, n, "}}}")
		}, openJSON},
		{"tokenizer.json: merges", func(n int) []byte {
			return repeated(`{"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":[`, `"a a",`, n, "]}}")
		}, openJSON},
		{"tokenizer.json: merges as pairs", func(n int) []byte {
			return repeated(`{"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":[`, `["a","a"],`, n, "]}}")
		}, openJSON},
		{"tokenizer.json: added tokens", func(n int) []byte { return repeated(`{"added_tokens":[`, "{},", n, "]}") }, openJSON},
		{"tokenizer.json: steps", func(n int) []byte {
			return repeated(`{"normalizer":{"type":"Sequence","normalizers":[`, "{},", n, "]}}")
		}, openJSON},
		{"tokenizer.json: pieces", func(n int) []byte {
			return repeated(`{"model":{"type":"Unigram","unk_id":0,"vocab":[`, `["a",0],`, n, "]}}")
		}, openJSON},
		{"importance matrix: entries", func(n int) []byte {
			entries := min(n/20, 1<<16)
			b := binary.LittleEndian.AppendUint32(nil, uint32(entries))
			for i := range entries {
				b = append(binary.LittleEndian.AppendUint32(b, 4), fmt.Sprintf("%04x", i)...)
				b = append(b, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
			}
			return b
		}, openImatrix},
		{"safetensors: numbers of five bytes", func(n int) []byte { return header(repeated(`{"a":{"shape":[`, "1000,", n, "]}}")) },
			openSafetensors},
		{"tokenizer.json: small added tokens", func(n int) []byte {
			return repeated(`{"added_tokens":[`, `{"id":10000,"content":"abcdefg"},`, n, "]}")
		}, openJSON},
		{"calibration file: names of five bytes", func(n int) []byte {
			return moments(repeated(`{"inputs":[{"weights":[`, `"ab",`, n, "]}]}"))
		}, openCalibration},
		{"calibration file: numbers of five bytes", func(n int) []byte {
			return moments(repeated(`{"sensitivity":{"rows":{"a":[`, "0.25,", n, "]}}}"))
		}, openCalibration},
		{"calibration file: small inputs", func(n int) []byte {
			return moments(repeated(`{"inputs":[`, `{"weights":["abcde"],"width":12},`, n, "]}"))
		}, openCalibration},
		{"calibration file: inputs", func(n int) []byte { return moments(repeated(`{"inputs":[`, "{},", n, "]}")) }, openCalibration},
		{"calibration file: names", func(n int) []byte {
			return moments(repeated(`{"inputs":[{"weights":[`, `"",`, n, "]}]}"))
		}, openCalibration},
		{"calibration file: rows", func(n int) []byte {
			return moments(repeated(`{"sensitivity":{"rows":{"a":[`, "0,", n, "]}}}"))
		}, openCalibration},
	}
}

// Opening a file takes at most 4 times its size and 64 MiB, and time in proportion to its size, whatever is in it.
func TestFilesTakeMemoryAndTimeByTheirSize(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI measure memory without it")
	}
	dir := t.TempDir()
	const large = 16 << 20
	for _, b := range bombs(t, dir) {
		path := filepath.Join(dir, "bomb")
		var times [2]time.Duration
		for i, size := range []int{large / 4, large} {
			data := b.make(size)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			size, most := len(data), int64(4*len(data)+64<<20)
			data = nil
			var peak int64
			peak, times[i] = heapPeak(func() { b.open(path) })
			require.Less(t, peak, most, "%s: %d bytes", b.name, size)
			t.Logf("%-40s %9d bytes: %6.1f MiB, %v", b.name, size, float64(peak)/(1<<20), times[i])
		}
		// Four times the size takes four times as long; sixteen times would be quadratic.
		require.Less(t, times[1], 9*times[0]+500*time.Millisecond, b.name)
	}
}
