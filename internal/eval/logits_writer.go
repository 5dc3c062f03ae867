package eval

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// LogitsWriter writes a file of saved predictions, under another name until Finish.
type LogitsWriter struct {
	f       *outfile.File
	w       *bufio.Writer
	path    string
	softmax *softmax
	nVocab  int
	left    int // rows that are still to be written
	rows    []byte
}

// CreateLogits begins the file at path.
func CreateLogits(path string) (*LogitsWriter, error) { return CreateLogitsOn(outfile.OS{}, path) }

// CreateLogitsOn is CreateLogits for another disk.
func CreateLogitsOn(disk outfile.Disk, path string) (*LogitsWriter, error) {
	f, err := outfile.Create(disk, path)
	if err != nil {
		return nil, err
	}
	return &LogitsWriter{f: f, w: bufio.NewWriterSize(f, 1<<20), path: path, softmax: newSoftmax()}, nil
}

// begin writes everything before the rows; tokens are whole chunks.
func (l *LogitsWriter) begin(nCtx, nVocab int, tokens []int32) error {
	chunks := len(tokens) / nCtx
	b := []byte(logitsMagic)
	for _, v := range []int{nCtx, nVocab, chunks} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	l.nVocab, l.left = nVocab, chunks*scoredRows(nCtx)
	_, err := l.w.Write(b)
	return err
}

// batchRows bounds how many rows of saved predictions are in memory at once.
const batchRows = 32

// write appends the distributions of rows of logits.
func (l *LogitsWriter) write(logits []float32) error {
	size := rowBytes(l.nVocab)
	for len(logits) > 0 {
		n := min(len(logits)/l.nVocab, batchRows)
		l.rows = append(l.rows[:0], make([]byte, n*size)...)
		parallel.Do(n, func(i int) {
			l.softmax.encodeRow(savedRow(l.rows[i*size:][:size]), logits[i*l.nVocab:][:l.nVocab])
		})
		if _, err := l.w.Write(l.rows); err != nil {
			return err
		}
		l.left -= n
		logits = logits[n*l.nVocab:]
	}
	return nil
}

// encodeRow fills row with the distribution that finite logits stand for.
func (s *softmax) encodeRow(row savedRow, logits []float32) {
	lse, argmax := s.logSum(logits)
	hi, lo := logits[argmax], logits[argmax]
	for _, v := range logits {
		lo = min(lo, v)
	}
	lo = max(lo, hi-logitsRange)
	scale := (hi - lo) / logitsLevels
	le := binary.LittleEndian
	le.PutUint32(row, math.Float32bits(scale))
	le.PutUint32(row[4:], math.Float32bits(float32(float64(lo)-lse)))
	if scale == 0 {
		return // all levels are 0
	}
	inverse := 1 / scale
	for i, v := range logits {
		if v > lo {
			le.PutUint16(row[rowHeader+2*i:], uint16(min(inverse*(v-lo)+0.5, logitsLevels)))
		}
	}
}

// Finish gives the file its name.
func (l *LogitsWriter) Finish() error {
	if l.left != 0 {
		return fmt.Errorf("%s: %d rows are missing", l.path, l.left)
	}
	if err := l.w.Flush(); err != nil {
		return err
	}
	return l.f.Commit()
}

// Abort removes the unfinished file. After Finish it does nothing.
func (l *LogitsWriter) Abort() { l.f.Abort() }
