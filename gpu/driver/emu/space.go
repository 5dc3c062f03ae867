package emu

import (
	"fmt"
	"sort"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// align is the alignment of allocations and the least gap between two, which stays forbidden to kernels.
const align = 256

// space hands out ranges of device memory, first fit.
type space struct {
	size  int64
	mu    sync.Mutex
	used  int64
	taken []span // by offset
}

type span struct{ off, n int64 }

// free returns the bytes that are not taken.
func (s *space) free() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size - s.used
}

func newSpace(size int64) *space { return &space{size: size} }

func (s *space) take(n int64) (off int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := &driver.Error{Op: "emulator: alloc", Detail: fmt.Sprintf("%d bytes", n), Kind: driver.ErrOutOfMemory,
		Msg: fmt.Sprintf("%d of %d bytes are in use", s.used, s.size)}
	if n <= 0 || n > s.size {
		return 0, fail
	}
	off = align
	at := len(s.taken)
	for i, t := range s.taken {
		if off+n+align <= t.off {
			at = i
			break
		}
		off = (t.off + t.n + 2*align - 1) &^ (align - 1)
	}
	if off+n > s.size {
		return 0, fail
	}
	s.taken = append(s.taken, span{})
	copy(s.taken[at+1:], s.taken[at:])
	s.taken[at] = span{off, n}
	s.used += n
	return off, nil
}

func (s *space) give(off int64) (n int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.taken), func(i int) bool { return s.taken[i].off >= off })
	if i == len(s.taken) || s.taken[i].off != off {
		return 0, false
	}
	n = s.taken[i].n
	s.taken = append(s.taken[:i], s.taken[i+1:]...)
	s.used -= n
	return n, true
}
