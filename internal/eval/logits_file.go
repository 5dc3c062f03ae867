package eval

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
)

// The file in which llama-perplexity saves a model's predictions (--kl-divergence-base), little endian:
//
//	 0  8 bytes   "_logits_"
//	 8  uint32    n_ctx, tokens per chunk
//	12  int32     n_vocab
//	16  int32     n_chunk
//	20  int32 ×   n_chunk·n_ctx tokens, as the text has them (no BOS put in their place)
//	then for each chunk and each of its positions n_ctx/2 … n_ctx−2 a row: the distribution of the next token
//	    float32   scale
//	    float32   minimum
//	    uint16 ×  n_vocab levels q, and one more of padding if n_vocab is odd
//
// The natural logarithm of token i's probability is scale·q_i + minimum. Levels reach 65,535 at the most probable
// token; logarithms more than 16 below that one's are raised to 16 below, so that scale is at most 16/65535. A
// reader counts tokens of at most e^−16 (cutoff) as impossible: those raised ones always are among them.
const (
	logitsMagic   = "_logits_"
	logitsHeader  = 20
	logitsRange   = 16 // nats between the largest and the least logarithm kept
	logitsCutoff  = -16
	logitsLevels  = 65535
	rowHeader     = 8
	maxLogitsCtx  = 1 << 20
	maxLogitsVoca = 1 << 24
)

// LogitsFile is an open file of saved predictions. Its methods are safe for concurrent use.
type LogitsFile struct {
	NCtx   int
	NVocab int
	Chunks int
	Tokens []int32 // Chunks × NCtx
	name   string
	r      io.ReaderAt
	close  func() error
}

// OpenLogits opens the file at path and checks its header, its tokens and its size.
func OpenLogits(path string) (*LogitsFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: is a directory or device, a file of saved logits is expected", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	l, err := readLogits(f, st.Size(), path)
	if err != nil {
		f.Close()
		return nil, err
	}
	l.close = f.Close
	return l, nil
}

// Close closes the file.
func (l *LogitsFile) Close() error { return l.close() }

func readLogits(r io.ReaderAt, size int64, name string) (*LogitsFile, error) {
	h := make([]byte, logitsHeader)
	if n, err := r.ReadAt(h, 0); n < len(logitsMagic) || string(h[:len(logitsMagic)]) != logitsMagic {
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return nil, fmt.Errorf("%s: offset 0: expected %q, this is no file of saved logits (llama-perplexity --kl-divergence-base "+
			"and ellm-gpu eval --save-logits make them)", name, logitsMagic)
	} else if n < logitsHeader {
		return nil, fmt.Errorf("%s: the file ends in its header: %d bytes, expected at least %d", name, n, logitsHeader)
	}
	le := binary.LittleEndian
	l := &LogitsFile{name: name, r: r}
	for _, v := range []struct {
		name   string
		at     int
		lo, hi uint32
		to     *int
	}{{"n_ctx", 8, minCtx, maxLogitsCtx, &l.NCtx}, {"n_vocab", 12, 1, maxLogitsVoca, &l.NVocab},
		{"n_chunk", 16, 1, math.MaxInt32, &l.Chunks}} {
		n := le.Uint32(h[v.at:])
		if n < v.lo || n > v.hi {
			return nil, fmt.Errorf("%s: offset %d: %s is %d, expected %d to %d (the file is damaged)", name, v.at, v.name, n, v.lo, v.hi)
		}
		*v.to = int(n)
	}
	// With the bounds above a chunk has less than 2⁴⁶ bytes: compare counts by division.
	if chunk := l.chunkBytes() + 4*int64(l.NCtx); (size-logitsHeader)/chunk != int64(l.Chunks) || (size-logitsHeader)%chunk != 0 {
		return nil, fmt.Errorf("%s: the file has %d bytes, expected %d and %d for each of %d chunks (n_ctx %d, n_vocab %d): it is "+
			"damaged, or its program was stopped; make it again", name, size, logitsHeader, chunk, l.Chunks, l.NCtx, l.NVocab)
	}
	return l, l.readTokens()
}

func (l *LogitsFile) readTokens() error {
	b := make([]byte, 4*l.Chunks*l.NCtx)
	if _, err := l.r.ReadAt(b, logitsHeader); err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	l.Tokens = make([]int32, l.Chunks*l.NCtx)
	for i := range l.Tokens {
		t := binary.LittleEndian.Uint32(b[4*i:])
		if t >= uint32(l.NVocab) {
			return fmt.Errorf("%s: offset %d: token %d, expected less than n_vocab, which is %d (the file is damaged)", l.name,
				logitsHeader+4*i, int32(t), l.NVocab)
		}
		l.Tokens[i] = int32(t)
	}
	return nil
}

// scoredRows returns the rows of a chunk.
func scoredRows(nCtx int) int { return nCtx - 1 - nCtx/2 }

func rowBytes(nVocab int) int { return rowHeader + (nVocab+1)/2*4 }

func (l *LogitsFile) chunkBytes() int64 {
	return int64(scoredRows(l.NCtx)) * int64(rowBytes(l.NVocab))
}

func (l *LogitsFile) rowOffset(chunk, row int) int64 {
	return logitsHeader + 4*int64(len(l.Tokens)) + int64(chunk)*l.chunkBytes() + int64(row)*int64(rowBytes(l.NVocab))
}

// readRows fills dst, whose length is a multiple of rowBytes, with rows from the given one on.
func (l *LogitsFile) readRows(chunk, row int, dst []byte) error {
	at := l.rowOffset(chunk, row)
	if n, err := l.r.ReadAt(dst, at); n < len(dst) {
		return fmt.Errorf("%s: offset %d: %w", l.name, at+int64(n), err)
	}
	for size := rowBytes(l.NVocab); len(dst) > 0; dst, at = dst[size:], at+int64(size) {
		if err := savedRow(dst).check(); err != nil {
			return fmt.Errorf("%s: offset %d: %w", l.name, at, err)
		}
	}
	return nil
}

// Digest identifies the content by header, tokens, and scale and minimum of every row.
func (l *LogitsFile) Digest() (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(l.r, 0, logitsHeader+4*int64(len(l.Tokens)))); err != nil {
		return "", fmt.Errorf("%s: %w", l.name, err)
	}
	b := make([]byte, rowHeader)
	for c := range l.Chunks {
		for r := range scoredRows(l.NCtx) {
			if _, err := l.r.ReadAt(b, l.rowOffset(c, r)); err != nil {
				return "", fmt.Errorf("%s: %w", l.name, err)
			}
			h.Write(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// savedRow is a row of the file.
type savedRow []byte

func (r savedRow) scale() float32 { return math.Float32frombits(binary.LittleEndian.Uint32(r)) }

func (r savedRow) minimum() float32 { return math.Float32frombits(binary.LittleEndian.Uint32(r[4:])) }

func (r savedRow) level(i int) uint16 { return binary.LittleEndian.Uint16(r[rowHeader+2*i:]) }

// check refuses what no softmax gives. The limits leave room for the rounding of other programs.
func (r savedRow) check() error {
	const tolerance = 1.01
	if s := r.scale(); !(s >= 0 && s <= tolerance*logitsRange/logitsLevels) {
		return fmt.Errorf("scale %v of a row, expected 0 to %v (the file is damaged)", s, float32(logitsRange)/logitsLevels)
	}
	if m := r.minimum(); !(m <= 0.01 && m >= -1000) {
		return fmt.Errorf("minimum %v of a row, expected a logarithm of a probability (the file is damaged)", m)
	}
	return nil
}
