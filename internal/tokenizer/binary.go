package tokenizer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// ErrCorrupt is wrapped by all errors of Unmarshal about the bytes themselves.
var ErrCorrupt = errors.New("corrupt tokenizer section")

const binaryVersion = 2

const (
	optIgnoreMerges = 1 << iota
	optFuseUnknown
	optAddBOS
	optAddEOS
	optScores
	optWeights
	numOpts = iota
)

// Marshal returns the TOKN section of a container (docs/format.md, section 3). Integers of fixed size are
// little endian; uvarint and varint are those of encoding/binary (LEB128, the signed ones zigzag).
//
//	u16      version, 2
//	u8       model: 0 byte-level BPE, 1 SentencePiece BPE, 2 Unigram
//	u8       space before the text: 0 never, 1 at every fragment, 2 at every fragment that does not begin
//	         with one, 3 at the beginning of the text unless it begins with one
//	u32      options: bit 0 a word that is a token is not split, 1 neighbouring unknown characters are fused,
//	         2 add BOS, 3 add EOS, 4 scores are present, 5 weights are present; others zero
//	5 × i32  ids of BOS, EOS, UNK, PAD, EOT; −1: none
//	string   GGUF's name of the pre-tokenizer (a string is: uvarint length, bytes)
//	uvarint  number of splitting rules, then that many strings (the names in split.go)
//	uvarint  number of entries of the normalizer, then that many strings (the steps in normalize.go)
//	string   character map of the normalizer, may be empty
//	uvarint  number of tokens N
//	N × u8   bits 0–2 type as in GGUF (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte);
//	         3 strips white space to the left, 4 to the right, 5 single word
//	N ×      uvarint length of the token's text
//	bytes    the texts, one after the other
//	N × f32  scores, if present
//	N × f64  weights of Unigram, if present
//	uvarint  number of merges M
//	M ×      uvarint left, uvarint right, varint result − (result of the merge before + 1); ids, in
//	         order of application (with scores: merges whose results score the same are one rank)
//
// Nothing follows.
func Marshal(t *Tokenizer) ([]byte, error) {
	s := &t.spec
	var options uint32
	for i, on := range [numOpts]bool{s.ignoreMerges, s.fuseUnknown, s.addBOS, s.addEOS, s.scores != nil, s.weights != nil} {
		if on {
			options |= 1 << i
		}
	}
	le := binary.LittleEndian
	b := le.AppendUint16(nil, binaryVersion)
	b = append(b, byte(s.kind), byte(s.prefix))
	b = le.AppendUint32(b, options)
	for _, id := range []int32{s.bos, s.eos, s.unk, s.pad, s.eot} {
		b = le.AppendUint32(b, uint32(id))
	}
	b = appendString(b, s.pre)
	b = binary.AppendUvarint(b, uint64(len(s.rules)))
	for _, r := range s.rules {
		b = appendString(b, r)
	}
	b = binary.AppendUvarint(b, uint64(len(s.steps)))
	for _, step := range s.steps {
		b = appendString(b, step)
	}
	b = appendString(b, string(s.charsMap))
	b = binary.AppendUvarint(b, uint64(len(s.tokens)))
	b = append(b, s.attrs...)
	for _, text := range s.tokens {
		b = binary.AppendUvarint(b, uint64(len(text)))
	}
	for _, text := range s.tokens {
		b = append(b, text...)
	}
	for _, score := range s.scores {
		b = le.AppendUint32(b, math.Float32bits(score))
	}
	for _, weight := range s.weights {
		b = le.AppendUint64(b, math.Float64bits(weight))
	}
	b = binary.AppendUvarint(b, uint64(len(s.merges)))
	previous := int32(-1)
	for _, m := range s.merges {
		b = binary.AppendUvarint(b, uint64(m.left))
		b = binary.AppendUvarint(b, uint64(m.right))
		b = binary.AppendVarint(b, int64(m.result)-int64(previous)-1)
		previous = m.result
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Unmarshal reads what Marshal wrote. Its memory is bounded by a small multiple of len(data), whatever data holds.
func Unmarshal(data []byte) (*Tokenizer, error) {
	r := &binaryReader{data: data}
	var s spec
	if v := r.uint16(); r.err == nil && v != binaryVersion {
		return nil, fmt.Errorf("tokenizer: section has version %d, this program reads version %d: update it, or make the file again",
			v, binaryVersion)
	}
	s.kind, s.prefix = modelKind(r.byte()), prefixMode(r.byte())
	if s.kind >= numModelKinds || s.prefix >= numPrefixModes {
		r.fail("model %d with space prefix %d", s.kind, s.prefix)
	}
	options := r.uint32()
	if options >= 1<<numOpts {
		r.fail("options %#x", options)
	}
	for i, on := range []*bool{&s.ignoreMerges, &s.fuseUnknown, &s.addBOS, &s.addEOS} {
		*on = options>>i&1 != 0
	}
	for _, id := range []*int32{&s.bos, &s.eos, &s.unk, &s.pad, &s.eot} {
		*id = int32(r.uint32())
	}
	s.pre = r.string()
	s.rules = r.strings(16, "splitting rules")
	s.steps = r.strings(maxSteps, "entries of the normalizer")
	if chars := r.string(); chars != "" {
		s.charsMap = []byte(chars)
	}
	r.tokens(&s)
	if options&optScores != 0 {
		r.scores(&s)
	}
	if options&optWeights != 0 {
		r.weights(&s)
	}
	r.merges(&s)
	if r.err == nil && r.pos != len(data) {
		r.fail("%d bytes after the end", len(data)-r.pos)
	}
	if r.err != nil {
		return nil, r.err
	}
	t, err := build(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return t, nil
}

// binaryReader reads values until the first error, then zeros.
type binaryReader struct {
	data []byte
	pos  int
	err  error
}

func (r *binaryReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("tokenizer: %w at byte %d: %s", ErrCorrupt, r.pos, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes, or nil after an error.
func (r *binaryReader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.data)-r.pos) {
		r.fail("%d bytes expected, %d are left", n, len(r.data)-r.pos)
	}
	if r.err != nil {
		return nil
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

func (r *binaryReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *binaryReader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *binaryReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *binaryReader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.data[r.pos:])
	if n <= 0 {
		r.fail("a number is cut off or too large")
		return 0
	}
	r.pos += n
	return v
}

// count reads the number of items that follow, each at least size bytes long.
func (r *binaryReader) count(size int) int {
	n := r.uvarint()
	if r.err == nil && n > uint64(len(r.data)-r.pos)/uint64(size) {
		r.fail("%d items of %d bytes or more expected, %d bytes are left", n, size, len(r.data)-r.pos)
		return 0
	}
	return int(n)
}

func (r *binaryReader) string() string {
	return string(r.take(r.uvarint()))
}

// strings reads a list of at most most strings; nil if it is empty.
func (r *binaryReader) strings(most int, what string) (list []string) {
	for n := r.count(1); n > 0 && r.err == nil; n-- {
		if len(list) == most {
			r.fail("more than %d %s", most, what)
			break
		}
		list = append(list, r.string())
	}
	return list
}

func (r *binaryReader) tokens(s *spec) {
	n := r.count(2)
	if n > maxTokens {
		r.fail("%d tokens, at most %d are supported", n, maxTokens)
		return
	}
	s.attrs = append([]uint8(nil), r.take(uint64(n))...)
	if r.err != nil {
		return
	}
	ends := make([]int, n)
	total := uint64(0)
	for i := range ends {
		length := r.uvarint()
		if length > uint64(len(r.data)) {
			r.fail("token %d is %d bytes long", i, length)
			return
		}
		total += length // no overflow: fewer than 2⁶³/len(data) tokens
		ends[i] = int(total)
	}
	texts := append([]byte(nil), r.take(total)...)
	if r.err != nil {
		return
	}
	joined := unsafe.String(unsafe.SliceData(texts), len(texts)) // texts is not used otherwise
	s.tokens = make([]string, n)
	start := 0
	for i, end := range ends {
		s.tokens[i] = joined[start:end]
		start = end
	}
}

func (r *binaryReader) scores(s *spec) {
	b := r.take(4 * uint64(len(s.tokens)))
	if r.err != nil {
		return
	}
	s.scores = make([]float32, len(s.tokens))
	for i := range s.scores {
		s.scores[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

func (r *binaryReader) weights(s *spec) {
	b := r.take(8 * uint64(len(s.tokens)))
	if r.err != nil {
		return
	}
	s.weights = make([]float64, len(s.tokens))
	for i := range s.weights {
		s.weights[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
}

func (r *binaryReader) merges(s *spec) {
	count := r.count(3)
	if count == 0 {
		return
	}
	s.merges = make([]merge, count)
	previous := int64(-1)
	n := uint64(len(s.tokens))
	for i := range s.merges {
		left, right := r.uvarint(), r.uvarint()
		z := r.uvarint()
		result := previous + 1 + (int64(z>>1) ^ -int64(z&1))
		if r.err == nil && (left >= n || right >= n || result < 0 || uint64(result) >= n) {
			r.fail("merge %d has ids %d, %d, %d in a vocabulary of %d tokens", i, left, right, result, n)
		}
		if r.err != nil {
			return
		}
		s.merges[i] = merge{int32(left), int32(right), int32(result)}
		previous = result
	}
}
