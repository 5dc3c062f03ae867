package format

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/race"
)

// crafted is a container whose sections, records and checksums a test makes as it likes.
type crafted struct {
	sections []section
	data     [][]byte
	gap      byte // what the bytes between sections are
}

func (c *crafted) add(kind string, data []byte) *crafted {
	c.sections = append(c.sections, section{kind: kind, size: uint64(len(data))})
	c.data = append(c.data, data)
	return c
}

func (c *crafted) addDeflated(t *testing.T, kind string, data []byte) *crafted {
	t.Helper()
	var b bytes.Buffer
	z, err := flate.NewWriter(&b, flate.BestCompression)
	require.NoError(t, err)
	_, err = z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	c.add(kind, b.Bytes())
	s := &c.sections[len(c.sections)-1]
	s.size, s.flags = uint64(len(data)), flagDeflate
	return c
}

// bytes lays the sections out one after the other and seals everything.
func (c *crafted) bytes(change func(sections []section)) []byte {
	b := make([]byte, headerSize)
	pad := func() {
		for len(b)%alignSection != 0 {
			b = append(b, c.gap)
		}
	}
	for i, d := range c.data {
		pad()
		c.sections[i].offset, c.sections[i].length, c.sections[i].crc = uint64(len(b)), uint64(len(d)), castagnoli(d)
		b = append(b, d...)
	}
	pad()
	sections := append([]section{}, c.sections...)
	if change != nil {
		change(sections)
	}
	return seal(b, sections)
}

// seal appends the section table and writes the header.
func seal(b []byte, sections []section) []byte {
	at := len(b)
	for i := range sections {
		record := make([]byte, recordSize)
		sections[i].encode(record)
		b = append(b, record...)
	}
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], uint32(len(sections)))
	le.PutUint64(b[16:], uint64(at))
	le.PutUint64(b[24:], uint64(len(b)))
	le.PutUint32(b[32:], castagnoli(b[at:]))
	le.PutUint32(b[60:], castagnoli(b[:60]))
	return b
}

// minimal has everything a container must have, and a vector of three numbers.
func minimal() *crafted {
	c := &crafted{}
	c.add(KindMeta, []byte(`{"producer":"test"}`)).add(KindTables, []byte{0, 0, 0, 0})
	c.add(KindTensor, make([]byte, 12))
	return c.add(KindIndex, []byte(`{"tensors":[{"name":"v","rows":1,"cols":3,"section":2,`+
		`"kind":"raw","dtype":"F32","parts":{"data":[0,12]}}]}`))
}

func openBytes(t *testing.T, b []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.ellm")
	require.NoError(t, os.WriteFile(path, b, 0o644))
	r, err := Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.VerifySections(); err != nil {
		return err
	}
	for _, x := range r.Tensors() {
		if err := r.Verify(x); err != nil {
			return err
		}
	}
	return nil
}

func TestSectionsAreApartSingleAndListed(t *testing.T) {
	require.NoError(t, openBytes(t, minimal().bytes(nil)))
	for _, x := range []struct {
		want  string
		bytes []byte
	}{
		{"overlap", minimal().bytes(func(s []section) { s[2].offset = s[1].offset })},
		{"does not fit", minimal().bytes(func(s []section) { s[2].offset = 0 })},
		{"does not fit", minimal().bytes(func(s []section) { s[2].reserved = 1 })},
		{"does not fit", minimal().bytes(func(s []section) { s[2].flags = 2 })},
		{"a second section META", minimal().add(KindMeta, []byte("{}")).bytes(nil)},
		{"a second section TIDX", minimal().add(KindIndex, []byte("{}")).bytes(nil)},
		{"a second section TBLS", minimal().add(KindTables, []byte("{}")).bytes(nil)},
		{"is not listed", minimal().add(KindTensor, []byte{1}).bytes(nil)},
		{"checksum", minimal().add("XTRA", []byte("unknown")).bytes(func(s []section) { s[4].crc++ })},
		{"not zero", (&crafted{gap: 7, sections: minimal().sections, data: minimal().data}).bytes(nil)},
		{"section is missing", (&crafted{}).add(KindMeta, []byte("{}")).add(KindTables, make([]byte, 4)).bytes(nil)},
	} {
		err := openBytes(t, x.bytes)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt, x.want)
		require.ErrorContains(t, err, x.want)
	}
	require.NoError(t, openBytes(t, minimal().add("XTRA", []byte("unknown kinds are ignored")).bytes(nil)))
}

func TestIndexIsStrict(t *testing.T) {
	entry := `{"name":"v","rows":1,"cols":3,"section":2,"kind":"raw","dtype":"F32","parts":{"data":[0,12]}}`
	for want, text := range map[string]string{
		"listed twice":            `{"tensors":[` + entry + `,` + entry + `]}`,
		"which another tensor":    `{"tensors":[` + entry + `,` + strings.Replace(entry, `"v"`, `"w"`, 1) + `]}`,
		"not a tensor section":    `{"tensors":[` + strings.Replace(entry, `"section":2`, `"section":0`, 1) + `]}`,
		"expected tensors":        `{"tensor":[]}`,
		"expected {":              `[]`,
		"list of tensors":         `{"tensors":7}`,
		"something follows":       `{"tensors":[` + entry + `]} {}`,
		"expected }":              `{"tensors":[` + entry + `],"more":1}`,
		"with a name of 3000":     `{"tensors":[` + strings.Replace(entry, `"v"`, `"`+strings.Repeat("v", 3000)+`"`, 1) + `]}`,
		"overlaps the one before": `{"tensors":[` + strings.Replace(entry, `{"data":[0,12]}`, `{"data":[0,12],"x":[0,4]}`, 1) + `]}`,
		"does not fit a section":  `{"tensors":[` + strings.Replace(entry, `[0,12]`, `[64,12]`, 1) + `]}`,
	} {
		c := minimal()
		c.data[3] = []byte(text)
		c.sections[3].size = uint64(len(text))
		require.ErrorContains(t, openBytes(t, c.bytes(nil)), want)
	}
}

// peak returns how many bytes the heap grew by at most while f ran, as far as the collector lets it be seen.
func peak(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Small files that ask for much memory are refused before they get it. The bound is of all allocations, not of those that live at
// a time.
func TestSmallFilesCannotTakeMuchMemory(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	spaces := func(n int) []byte { return append(bytes.Repeat([]byte{' '}, n), "{}"...) }
	list := func(n int, entry string) []byte {
		return []byte(`{"tensors":[` + strings.TrimSuffix(strings.Repeat(entry+",", n), ",") + `]}`)
	}
	full := func(kind string, data []byte) []byte {
		c := &crafted{}
		for _, k := range []string{KindMeta, KindTables, KindIndex} {
			if k != kind {
				c.add(k, map[string][]byte{KindMeta: []byte("{}"), KindTables: make([]byte, 4), KindIndex: []byte(`{"tensors":[]}`)}[k])
			}
		}
		return c.addDeflated(t, kind, data).bytes(nil)
	}
	shared := minimal()
	entry := `{"name":"v%d","rows":1,"cols":3,"section":2,"kind":"raw","dtype":"F32","parts":{"data":[0,12]}}`
	text := `{"tensors":[` + fmt.Sprintf(entry, 0)
	for i := range 10_000 {
		text += "," + fmt.Sprintf(entry, i+1)
	}
	shared.data[3] = []byte(text + "]}")
	shared.sections[3].size = uint64(len(shared.data[3]))
	for name, b := range map[string][]byte{
		"spaces in META":     full(KindMeta, spaces(12<<20)),
		"spaces in TIDX":     full(KindIndex, spaces(12<<20)),
		"empty entries":      full(KindIndex, list(2<<20, "{}")),
		"one section shared": shared.bytes(nil),
		"zeros in TBLS":      full(KindTables, make([]byte, 12<<20)),
	} {
		path := filepath.Join(t.TempDir(), "b.ellm")
		require.NoError(t, os.WriteFile(path, b, 0o644))
		var err error
		got := peak(func() { _, err = Open(path) })
		require.Error(t, err, name)
		require.Less(t, got, uint64(4*len(b)+64<<20), name)
	}
}

// Parts that are shorter in the file must not become much larger in memory, whatever they claim.
func TestExpandedPartsAreBounded(t *testing.T) {
	rows := MaxRows
	order := make([]byte, 1+rows/8)
	order[0] = 1
	left := int64(expandSlack)
	_, err := unpackOrder(order, rows, func(n int64) error {
		if left -= n; left < 0 {
			return fmt.Errorf("too much")
		}
		return nil
	})
	require.ErrorContains(t, err, "too much")
}

func TestValuesThatAreNotFiniteAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Coded){
		"row_scale[3]": func(c *Coded) { c.RowScale[3] = 0x7c00 },
		"row_scale[5]": func(c *Coded) { c.RowScale[5] = 0xfe01 },
		"col_scale[9]": func(c *Coded) {
			c.ColScale = make([]float32, c.Cols)
			c.ColScale[9] = float32(math.Inf(-1))
		},
	} {
		c, table, _ := sampleCoded(rand.New(rand.NewPCG(3, 4)), 0)
		spoil(c)
		path := filepath.Join(t.TempDir(), "n.ellm")
		w, err := Create(path)
		require.NoError(t, err)
		require.NoError(t, w.Coded("m", c))
		_, err = w.Finish(&Meta{Config: json.RawMessage("{}")}, []*huffman.Table{table})
		require.NoError(t, err)
		require.ErrorContains(t, openAll(path), name)
	}
	c := minimal()
	binary.LittleEndian.PutUint32(c.data[2][4:], 0x7f800000)
	require.ErrorContains(t, openBytes(t, c.bytes(nil)), "element[1] is +Inf")
}

func TestPipesAreRefusedAtOnce(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	_, err := Open(fifo)
	require.ErrorIs(t, err, ErrNotEllm)
}

// A file that shrinks while it is open ends every read in an error with its name.
func TestShrinkingFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.ellm")
	writeSample(t, path)
	r, err := Open(path)
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, os.Truncate(path, 0))
	for _, x := range r.Tensors() {
		require.ErrorContains(t, r.Verify(x), path+": offset")
	}
	_, err = r.Section(KindTokenizer)
	require.ErrorContains(t, err, "shrank")
	require.ErrorContains(t, r.VerifySections(), path)
	require.ErrorContains(t, r.Guard(func() error { return fmt.Errorf("%x", r.Tensors()[0].Raw.Data) }), "shrank")
}
