package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// The layout that docs/format.md gives, as far as damaging a file and sealing it again needs it.
const (
	headerBytes = 64
	recordBytes = 40
)

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// region is a part of a container that changes are made in; record is its number in the section table, or −1.
type region struct {
	name     string
	from, to int
	record   int
}

func tableOf(b []byte) (at, n int) {
	le := binary.LittleEndian
	return int(le.Uint64(b[16:])), int(le.Uint32(b[12:]))
}

// regions returns header, section table, all sections that are not tensors, the gap before the second one, and the sections of
// the tensors with these numbers.
func regions(b []byte, tensors ...int) []region {
	at, n := tableOf(b)
	out := []region{{"header", 0, headerBytes, -1}, {"section table", at, at + n*recordBytes, -1}}
	nth := 0
	le := binary.LittleEndian
	for i := range n {
		r := b[at+i*recordBytes:]
		kind, from, size := string(r[:4]), int(le.Uint64(r[8:])), int(le.Uint64(r[16:]))
		if end := from + size; i == 0 && end%64 != 0 {
			out = append(out, region{"gap", end, (end + 63) / 64 * 64, -1})
		}
		if kind == format.KindTensor {
			nth++
			wanted := false
			for _, k := range tensors {
				wanted = wanted || k == nth-1
			}
			if !wanted {
				continue
			}
			kind = fmt.Sprintf("%s %d", kind, nth-1)
		}
		out = append(out, region{kind, from, from + size, i})
	}
	return out
}

// changes are the kinds of damage. Each returns a changed copy of b.
func changes() map[string]func(b []byte, r region, rng *rand.Rand) []byte {
	record := func(b []byte, r region) []byte { at, _ := tableOf(b); return b[at+r.record*recordBytes:][:recordBytes] }
	le := binary.LittleEndian
	return map[string]func(b []byte, r region, rng *rand.Rand) []byte{
		"flip": func(b []byte, r region, rng *rand.Rand) []byte {
			b[r.from+rng.IntN(r.to-r.from)] ^= 1 << rng.IntN(8)
			return b
		},
		"zero": func(b []byte, r region, rng *rand.Rand) []byte {
			at := r.from + rng.IntN(r.to-r.from)
			clear(b[at:min(r.to, at+1+rng.IntN(64))])
			return b
		},
		"swap": func(b []byte, r region, rng *rand.Rand) []byte {
			n := min(32, r.to-r.from)
			x, y := b[r.from+rng.IntN(r.to-r.from-n+1):][:n], b[rng.IntN(len(b)-n):][:n]
			for i := range n {
				x[i], y[i] = y[i], x[i]
			}
			return b
		},
		"truncate": func(b []byte, r region, rng *rand.Rand) []byte {
			if r.record < 0 {
				return b[:r.from+rng.IntN(r.to-r.from)]
			}
			n := uint64(rng.IntN(r.to - r.from))
			le.PutUint64(record(b, r)[16:], n)
			if le.Uint32(record(b, r)[4:]) == 0 {
				le.PutUint64(record(b, r)[24:], n)
			}
			return b
		},
		"inflate": func(b []byte, r region, rng *rand.Rand) []byte {
			if r.record < 0 {
				return append(b, bytes.Repeat([]byte{0xaa}, 1+rng.IntN(200))...)
			}
			at := 16
			if le.Uint32(record(b, r)[4:]) != 0 { // what it inflates to
				at = 24
			}
			le.PutUint64(record(b, r)[at:], le.Uint64(record(b, r)[at:])<<rng.IntN(24)+uint64(rng.IntN(99)))
			return b
		},
		"overlap": func(b []byte, r region, rng *rand.Rand) []byte {
			_, n := tableOf(b)
			at, other := r, region{record: rng.IntN(n)}
			if at.record < 0 {
				at.record = (other.record + 1) % n
			}
			le.PutUint64(record(b, at)[8:], le.Uint64(record(b, other)[8:]))
			return b
		},
	}
}

// seal makes all checksums right again, as far as the layout can still be followed.
func seal(b []byte) []byte {
	if len(b) < headerBytes {
		return b
	}
	le := binary.LittleEndian
	le.PutUint64(b[24:], uint64(len(b)))
	at, n := le.Uint64(b[16:]), uint64(le.Uint32(b[12:]))
	if n < 1<<16 && at <= uint64(len(b)) && n*recordBytes <= uint64(len(b))-at {
		for i := range n {
			r := b[at+i*recordBytes:]
			if from, size := le.Uint64(r[8:]), le.Uint64(r[16:]); from <= uint64(len(b)) && size <= uint64(len(b))-from {
				le.PutUint32(r[32:], castagnoli(b[from:from+size]))
			}
		}
		le.PutUint32(b[32:], castagnoli(b[at:at+n*recordBytes]))
	}
	le.PutUint32(b[60:], castagnoli(b[:60]))
	return b
}

var errNotFinite = errors.New("logits are not finite")

// answers returns the best token after each one of a text by both plans, or the first error.
func answers(path string) (best []int32, err error) {
	for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
		got, err := answer(path, plan)
		if err != nil {
			return nil, err
		}
		if best != nil && fmt.Sprint(best) != fmt.Sprint(got) {
			return nil, fmt.Errorf("PLANS DIFFER: %v and %v", best, got)
		}
		best = got
	}
	return best, nil
}

func answer(path string, plan engine.Plan) (best []int32, err error) {
	f, err := format.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := cpu.New()
	defer b.Close()
	ctx := context.Background()
	e, err := engine.New(ctx, f, b, engine.LoadOptions{Plan: plan, NCtx: 32, Threads: 2})
	if err != nil {
		return nil, err
	}
	text := []int32{40, 101, 32, 9, 77, 101, 40, 12}
	err = e.Evaluate(ctx, text, 0, func(_ int, logits []float32) error {
		top := 0
		for i, x := range logits {
			if x-x != 0 {
				return errNotFinite
			}
			if x > logits[top] {
				top = i
			}
		}
		best = append(best, int32(top))
		return nil
	})
	return best, err
}

func verifyFile(path string) error {
	f, err := format.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return convert.Verify(context.Background(), f, nil)
}

// outcome counts what became of damaged files.
type outcome struct {
	found, unchanged int // with wrong checksums: by verify; files that the damage left as they were
	// with right ones: by run; same answers; another valid model; not reported by verify alone
	refused, harmless, other, notReport int
}

// damagedFile is a case of the corruption matrix.
type damagedFile struct {
	b      []byte
	sealed bool
	kind   string // of the change
	what   string // for messages
}

// structural are changes of where things are, not of what they are.
func (d *damagedFile) structural() bool {
	return d.kind == "truncate" || d.kind == "inflate" || d.kind == "overlap"
}

// fingerprintOf returns the fingerprint of a container that can be opened.
func fingerprintOf(t *testing.T, path string) string {
	f, err := format.Open(path)
	require.NoError(t, err)
	defer f.Close()
	return f.Fingerprint()
}

// check runs one damaged file and counts what comes of it; want are the answers of the whole file,
// origin is its fingerprint.
func (o *outcome) check(t *testing.T, path string, whole []byte, d damagedFile, want []int32, origin string) {
	require.NoError(t, os.WriteFile(path, d.b, 0o600))
	start := time.Now()
	damaged := verifyFile(path)
	got, failed := answers(path)
	require.Less(t, time.Since(start), 20*time.Second, d.what)
	if failed != nil {
		require.NotContains(t, failed.Error(), "PLANS DIFFER", d.what)
	}
	same := failed == nil && slices.Equal(want, got)
	switch {
	case !d.sealed && bytes.Equal(d.b, whole):
		o.unchanged++
	case !d.sealed:
		require.Error(t, damaged, d.what)
		o.found++
		require.True(t, failed != nil || same, d.what)
	case failed != nil:
		o.refused++
		if damaged == nil {
			o.notReport++ // such as weights that lead out of the range of numbers
		}
	case same:
		o.harmless++
	default: // as good a model as any, but not this one: what knows files by their digest, sees that
		o.other++
		require.False(t, d.structural(), "%s: answers %v instead of %v", d.what, got, want)
		require.NotEqual(t, origin, fingerprintOf(t, path), d.what)
	}
}

// TestCorruptionMatrix damages every region of containers in every way. With wrong checksums, damage is always found by verify,
// and never changes an answer. With right ones (a file made on purpose) nothing panics, hangs or answers with numbers that are
// not finite, both plans agree, damage to the structure is refused or changes no answer, and a file that is another valid model
// has another fingerprint.
func TestCorruptionMatrix(t *testing.T) {
	seeds := 2
	if testing.Short() {
		seeds = 1
	}
	if s := os.Getenv("ELLM_CORRUPTION_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		seeds = n
	}
	dir := t.TempDir()
	gguf, err := testmodel.WriteTo(dir)
	require.NoError(t, err)
	var o outcome
	tried := 0
	for _, opt := range []convert.Options{{BPW: 4}, {Scheme: convert.SchemeBF16}, {Scheme: convert.SchemePaperU4}} {
		good := filepath.Join(dir, "good.ellm")
		src, err := source.Open(gguf)
		require.NoError(t, err)
		_, err = convert.Compress(context.Background(), src, good, opt, nil)
		require.NoError(t, err)
		require.NoError(t, src.Close())
		whole, err := os.ReadFile(good)
		require.NoError(t, err)
		want, err := answers(good)
		require.NoError(t, err)
		origin := fingerprintOf(t, good)
		for _, d := range corruptions(whole, regions(whole, 0, 1, 2, 9), seeds) {
			d.what = string(opt.Scheme) + ", " + d.what
			o.check(t, filepath.Join(dir, "bad.ellm"), whole, d, want, origin)
			tried++
		}
	}
	t.Logf("%d files: with wrong checksums %d found, %d unchanged; with right ones %d refused (%d of them by run alone), "+
		"%d with the same answers, %d another model with another fingerprint", tried, o.found, o.unchanged, o.refused, o.notReport,
		o.harmless, o.other)
}

// corruptions returns copies of a container with every change in every region, sealed and not.
func corruptions(whole []byte, where []region, seeds int) (all []damagedFile) {
	rng := rand.New(rand.NewPCG(7, 7))
	kinds := changes()
	for _, r := range where {
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			for range seeds {
				for _, sealed := range []bool{false, true} {
					b := kinds[kind](bytes.Clone(whole), r, rng)
					if sealed {
						b = seal(b)
					}
					all = append(all, damagedFile{b, sealed, kind, fmt.Sprintf("%s, %s, sealed %v", r.name, kind, sealed)})
				}
			}
		}
	}
	return all
}
