package convert

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// A calibration file keeps what running a model over text found, so that several sizes and settings need one run. It holds for
// each input the lower triangle of its moments, row by row, F32 little endian; then a JSON index of them, its length (uint64),
// and momentsMagic.
const (
	momentsMagic    = "ELLMMOM1"
	maxMomentsIndex = 1 << 26
)

type momentsIndex struct {
	Text   string         `json:"text"` // base name of the file of text
	Tokens int            `json:"tokens"`
	Inputs []momentsInput `json:"inputs"` // in the order in which they are stored

	Sensitivity *calibrate.Sensitivity `json:"sensitivity,omitempty"`
}

type momentsInput struct {
	Weights fewNames `json:"weights"`
	Width   int      `json:"width"`

	Diagonal bool `json:"diagonal,omitempty"` // is all there is, as one row
}

// fewNames are the names of matrices that share an input.
type fewNames []string

// UnmarshalJSON implements json.Unmarshaler.
func (f *fewNames) UnmarshalJSON(b []byte) error {
	const most = 1024
	if n := bytes.Count(b, []byte(",")); n > most {
		return fmt.Errorf("an input of %d matrices, expected at most %d", n, most)
	}
	return json.Unmarshal(b, (*[]string)(f))
}

// rows returns how many rows are stored, row the length of one.
func (m *momentsInput) rows() int {
	if m.Diagonal {
		return 1
	}
	return m.Width
}

func (m *momentsInput) row(i int) int {
	if m.Diagonal {
		return m.Width
	}
	return i + 1
}

// size returns the bytes of all rows.
func (m *momentsInput) size() int64 {
	if m.Diagonal {
		return 4 * int64(m.Width)
	}
	return 4 * int64(m.Width) * int64(m.Width+1) / 2
}

// momentsWriter writes a calibration file.
type momentsWriter struct {
	f     *outfile.File
	w     *bufio.Writer
	index momentsIndex
	row   []byte
}

// newMomentsWriter starts a file that appears at path when it is complete.
func newMomentsWriter(disk outfile.Disk, path, text string) (*momentsWriter, error) {
	f, err := outfile.Create(disk, path)
	if err != nil {
		return nil, err
	}
	return &momentsWriter{f: f, w: bufio.NewWriterSize(f, 1<<20), index: momentsIndex{Text: text}}, nil
}

// add is a calibrate.Visit.
func (m *momentsWriter) add(in *model.Input, s []float32, tokens int) error {
	m.index.Tokens = tokens
	x := momentsInput{Weights: in.Weights, Width: in.Width, Diagonal: len(s) == in.Width}
	m.index.Inputs = append(m.index.Inputs, x)
	for i := range x.rows() {
		m.row = m.row[:0]
		for _, x := range s[i*in.Width:][:x.row(i)] {
			m.row = binary.LittleEndian.AppendUint32(m.row, math.Float32bits(x))
		}
		if _, err := m.w.Write(m.row); err != nil {
			return err
		}
	}
	return nil
}

// finish completes the file, or removes it if there was an error.
func (m *momentsWriter) finish(err error) error {
	defer m.f.Abort()
	var b []byte
	if err == nil {
		b, err = json.Marshal(&m.index)
	}
	if err == nil {
		n := len(b)
		b = append(binary.LittleEndian.AppendUint64(b, uint64(n)), momentsMagic...)
		_, err = m.w.Write(b)
	}
	if err == nil {
		err = m.w.Flush()
	}
	if err == nil {
		err = m.f.Commit()
	}
	return err
}

// openMoments reads the index of a calibration file and checks it against the model.
func openMoments(path string, prog *model.Program) (*os.File, *momentsIndex, error) {
	f, err := infile.Open(path)
	if err != nil {
		return nil, nil, err
	}
	index, err := readMomentsIndex(f, prog)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, index, nil
}

func readMomentsIndex(f *os.File, prog *model.Program) (*momentsIndex, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const trailer = 8 + len(momentsMagic)
	end := make([]byte, trailer)
	if st.Size() < int64(trailer) {
		return nil, errors.New("is not a calibration file")
	}
	if _, err := f.ReadAt(end, st.Size()-int64(trailer)); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(end)
	if string(end[8:]) != momentsMagic || n > maxMomentsIndex || int64(n) > st.Size()-int64(trailer) {
		return nil, errors.New("is not a calibration file (or is damaged; --save-calibration writes one)")
	}
	at := st.Size() - int64(trailer) - int64(n)
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, err
	}
	index := &momentsIndex{}
	if err := infile.DecodeJSON(b, index); err != nil {
		return nil, err
	}
	inputs, size := prog.Inputs(), int64(0)
	same := len(inputs) == len(index.Inputs) && index.Tokens > 0
	for i := 0; same && i < len(inputs); i++ {
		same = inputs[i].Width == index.Inputs[i].Width && slices.Equal(fewNames(inputs[i].Weights), index.Inputs[i].Weights)
		size += index.Inputs[i].size()
	}
	if !same || size != at {
		return nil, errors.New("was made with another model: calibrate again")
	}
	return index, checkSensitivity(index.Sensitivity)
}

// checkSensitivity refuses what mean squares cannot be.
func checkSensitivity(s *calibrate.Sensitivity) error {
	if s == nil {
		return nil
	}
	for _, squares := range append(slices.Collect(maps.Values(s.Rows)), s.Embedding) {
		for _, x := range squares {
			if !(x >= 0 && x <= math.MaxFloat32) {
				return fmt.Errorf("a mean square of derivatives is %g (the file is damaged)", x)
			}
		}
	}
	return nil
}

// readMoments passes on what f holds, as calibrate.Run would.
func readMoments(f *os.File, index *momentsIndex, prog *model.Program, visit calibrate.Visit,
	progress func(done, total int64)) error {
	r := bufio.NewReaderSize(f, 1<<20)
	inputs := prog.Inputs()
	for k := range inputs {
		in := &index.Inputs[k]
		n := in.Width
		s, row := make([]float32, in.rows()*n), make([]byte, 4*n)
		for i := range in.rows() {
			b := row[:4*in.row(i)]
			if _, err := io.ReadFull(r, b); err != nil {
				return fmt.Errorf("%s: %w", f.Name(), err)
			}
			for j := range len(b) / 4 {
				s[i*n+j] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*j:]))
			}
		}
		for i := range n {
			if x := s[calibrate.Diagonal(s, n, i)]; !(x >= 0 && x <= math.MaxFloat32) {
				return fmt.Errorf("%s: a mean square of the input of %s is %g (the file is damaged)", f.Name(), in.Weights[0], x)
			}
		}
		if err := visit(&inputs[k], s, index.Tokens); err != nil {
			return err
		}
		progress(int64(k+1), int64(len(inputs)))
	}
	return nil
}
