package cli

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows how far long work is: a bar on a terminal, otherwise a line now and then.
// It is safe for concurrent use.
type progress struct {
	p     *program
	label string

	mu    sync.Mutex
	bars  *mpb.Progress // nil: no terminal
	bar   *mpb.Bar
	shown time.Time // of the last line

	note atomic.Pointer[string] // read by the bar's own goroutine, which must not wait for mu
}

const progressLineEvery = 5 * time.Second

func (p *program) newProgress(label string) *progress {
	pr := &progress{p: p, label: label, shown: time.Now()}
	if isTerminal(p.Err) {
		pr.bars = mpb.New(mpb.WithOutput(p.Err), mpb.WithWidth(48), mpb.WithRefreshRate(120*time.Millisecond))
	}
	return pr
}

// update reports done of total units of work.
func (pr *progress) update(done, total int64) { pr.updateNote(done, total, "") }

// stage is update for work in several stages, which are named.
func (pr *progress) stage(name string, done, total int64) { pr.updateNote(done, total, name) }

// updateNote is update with words about the state of the work.
func (pr *progress) updateNote(done, total int64, note string) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if total <= 0 {
		return
	}
	pr.note.Store(&note)
	if pr.bars == nil {
		if time.Since(pr.shown) >= progressLineEvery {
			pr.shown = time.Now()
			pr.p.notef("%s %d%% %s", pr.label, 100*done/total, note)
		}
		return
	}
	if pr.bar == nil {
		pr.bar = pr.newBar(total)
	}
	pr.bar.SetTotal(total, false)
	pr.bar.SetCurrent(done)
}

func (pr *progress) newBar(total int64) *mpb.Bar {
	return pr.bars.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(pr.label, decor.WC{C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}),
			decor.Any(func(decor.Statistics) string {
				return " " + *pr.note.Load()
			})))
}

// finish removes the bar. It must be called, also after a failure, before anything else is written.
func (pr *progress) finish() {
	pr.mu.Lock()
	bar := pr.bar
	pr.mu.Unlock()
	if bar != nil {
		bar.Abort(true)
	}
	if pr.bars != nil {
		pr.bars.Wait()
	}
}
