package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// draftMark begins the names of directories that hold a draft; the process's number follows.
const draftMark = ".draft-"

// noteStale names what killed processes left of an output: unfinished files, and drafts beside it.
func (p *program) noteStale(out string) {
	stale := outfile.Stale(out, running)
	drafts, err := filepath.Glob(filepath.Join(filepath.Dir(out), draftMark+"*"))
	if err == nil {
		for _, d := range drafts {
			number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(d), draftMark), "-")
			if pid, err := strconv.Atoi(number); err == nil && !running(pid) {
				stale = append(stale, d)
			}
		}
	}
	for _, s := range stale {
		p.notef("%s was left by a process that was killed: rm -r removes it", s)
	}
}

// makeDraft makes a directory for a draft beside out.
func makeDraft(out string) (string, error) {
	return os.MkdirTemp(filepath.Dir(out), fmt.Sprintf("%s%d-", draftMark, os.Getpid()))
}

// running reports whether a process exists, whosever it is.
func running(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	return !errors.Is(p.Signal(nullSignal), os.ErrProcessDone)
}
