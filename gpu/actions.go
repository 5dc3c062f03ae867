package gpu

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// action is what the device does for one node of the program or for several at once. The schedule lists them in order.
type action interface {
	// run does it for the tokens of s.
	run(p *pass, s span) error
	// about names it in errors and forecasts, and tells whether only tokens whose logits are wanted need it.
	about() (where string, last bool)
}

type header struct {
	where string
	last  bool
}

func (h header) about() (string, bool) { return h.where, h.last }

// embedAction looks up the rows of the tokens.
type embedAction struct {
	header
	w   *weight
	dst model.Buffer
}

func (a *embedAction) run(p *pass, s span) error {
	p.with = []*weight{a.w}
	return p.embed(a.w, s, p.at(a.dst, s.tok0))
}

// addAction adds one buffer to another.
type addAction struct {
	header
	dst, a model.Buffer
}

func (a *addAction) run(p *pass, s span) error {
	return p.addTo(p.at(a.dst, s.tok0), p.at(a.a, s.tok0), int64(s.n)*int64(p.prog.Width(a.dst)))
}

// addTo adds n values.
func (p *pass) addTo(dst, src driver.DevicePtr, n int64) error {
	p.hint = hint{reads: 12 * float64(n)}
	return p.add(p.elements(n), 0, dst, src, n)
}

// prepareAction normalizes, gates or scales the input of products and rounds it to half precision.
type prepareAction struct {
	header
	task   prepareTaskDesc
	dev    driver.DevicePtr // the task on the device
	values bool             // it computes something, besides rounding
	// which products read the prepared vectors: those of few tokens, those of many
	few, many bool
	// the launch before this does it, too, for up to gemvBatch tokens
	merged bool
}

func (a *prepareAction) run(p *pass, s span) error {
	few := s.n <= gemvBatch
	vectors := a.few && few || a.many && !few
	if few && a.merged || !a.values && !vectors {
		return nil
	}
	flag := int32(0)
	if vectors {
		flag = 1
	}
	p.rounds = a.task.rounds()
	return p.xPrepare(driver.D1(s.n), 0, a.dev, int32(s.tok0), flag)
}

// productAction multiplies the same input by one or more matrices: for few tokens in one launch, for many one after the other.
type productAction struct {
	header
	steps    []*step
	kernel   kernelID
	weights  []*weight
	tasks    driver.DevicePtr // gemvTaskDesc of each
	blocks   int
	shared   int
	input    driver.DevicePtr // of token 0
	residual bool             // the only product is added to BufX
	after    *prepareAction   // merged into this launch; nil = none
}

func (a *productAction) run(p *pass, s span) error {
	w := a.weights[0]
	x := a.input + driver.DevicePtr(4*s.tok0*w.Cols)
	if s.n <= gemvBatch {
		return a.few(p, s, x)
	}
	for _, st := range a.steps {
		p.where = st.where
		dst := p.at(st.Dst, s.tok0)
		if err := p.multiplyBatch(st, s.n, x, p.prepared, dst); err != nil {
			return err
		}
		if !a.residual {
			continue
		}
		if err := p.addTo(p.at(model.BufX, s.tok0), dst, int64(s.n)*int64(p.prog.Width(st.Dst))); err != nil {
			return err
		}
	}
	return nil
}

// few multiplies up to gemvBatch tokens, whose results go to where the tasks say.
func (a *productAction) few(p *pass, s span, x driver.DevicePtr) error {
	p.with, p.rounds = a.weights, gemvRounds
	after := p.prepareAfter(a.after, s)
	first := s.tok0
	if a.steps[0].Dst == model.BufLogits { // whose first row is the first wanted one
		first = 0
	}
	return p.multiply(a.kernel, driver.D2(a.blocks, s.n), a.shared, a.tasks, x, p.prepared, p.preparedStride, first, after)
}

// attendAction rotates queries and keys, stores keys and values, and attends.
type attendAction struct {
	header
	task  attentionTaskDesc
	dev   driver.DevicePtr
	q     model.Buffer
	after *prepareAction
}

// attentionQueries returns how many queries a block of the attention kernels works on.
func attentionQueries(headDim int) int {
	switch {
	case headDim <= 64:
		return 4
	case headDim <= 128:
		return 2
	}
	return 1
}

func (a *attendAction) run(p *pass, s span) error {
	k := &p.prog.Config
	store, attend := p.ropeStoreF16, p.attentionF16
	if p.kvQ8 {
		store, attend = p.ropeStoreQ8, p.attentionQ8
	}
	fresh := int32(0)
	if p.n == 1 && s.n == 1 {
		fresh = 1
	} else if err := store(driver.D2(k.NHeads+2*k.NKVHeads, p.n), 0, a.dev, p.position(0)); err != nil || s.n == 0 {
		return err
	}
	positions := float64(p.pos) + float64(p.n+1)/2 // that a token sees
	p.reads = 2 * float64(p.kvBytes) / float64(p.nCtx) * float64(p.pos+p.n)
	p.products = 2 * float64(s.n*k.NHeads*k.HeadDim) * positions
	p.rounds = attentionRounds + 2*positions/float64(attentionTeams*p.splits)
	perBlock := attentionQueries(k.HeadDim)
	if s.n > gemvBatch {
		grid := driver.Dim{X: k.NHeads, Y: 1, Z: ceilDiv(s.n, perBlock)}
		return attend(grid, 0, a.dev, p.position(s.tok0), int32(s.tok0), int32(s.n), 1, 0, 0)
	}
	after := p.prepareAfter(a.after, s)
	grid := driver.Dim{X: attentionTiles(k), Y: p.splits, Z: s.n}
	return attend(grid, 0, a.dev, p.position(s.tok0), int32(s.tok0), int32(s.n), 0, fresh, after)
}

// prepareAfter returns the task of a launch's last block; 0 = none.
func (p *pass) prepareAfter(a *prepareAction, s span) driver.DevicePtr {
	if a == nil {
		return 0
	}
	p.tail = float64(s.n) * a.task.rounds()
	return a.dev
}

const (
	attentionTeams  = 32 // positions that a block works on at a time
	attentionRounds = 12 // loads before, between and behind the positions, one after the other
)

// attentionTiles returns the blocks that share the heads of a token.
func attentionTiles(k *model.Config) int {
	return k.NKVHeads * ceilDiv(k.NHeads/k.NKVHeads, attentionQueries(k.HeadDim))
}

// logitsAction multiplies by the vocabulary's matrix, a few rows at a time, and copies the logits to the host.
type logitsAction struct {
	productAction
}

func (a *logitsAction) run(p *pass, s span) error {
	if s.n <= gemvBatch {
		return a.productAction.run(p, s)
	}
	st, vocab := a.steps[0], p.prog.Width(model.BufLogits)
	for done := 0; done < s.n; {
		part := span{s.tok0 + done, min(p.logitRows, s.n-done)}
		x := a.input + driver.DevicePtr(4*part.tok0*st.weight.Cols)
		xp := p.prepared + driver.DevicePtr(done)*driver.DevicePtr(p.preparedStride)
		if err := p.multiplyBatch(st, part.n, x, xp, p.buffers[model.BufLogits]); err != nil {
			return err
		}
		if err := p.fetchLogits(p.logits[done*vocab : (done+part.n)*vocab]); err != nil {
			return err
		}
		done += part.n
	}
	return nil
}

// fetchLogits copies the logits of the last product to the host.
func (p *pass) fetchLogits(dst []float32) error {
	if err := p.dev.CopyDtoH(bytesOf(dst), p.buffers[model.BufLogits]); err != nil {
		return fmt.Errorf("logits: %w", err)
	}
	return nil
}

// attentionScale is the factor on products of queries and keys.
func attentionScale(headDim int) float32 { return float32(1 / math.Sqrt(float64(headDim))) }
