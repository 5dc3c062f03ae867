package gpu

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	// A split of attention has at least splitPositions when the context is full; there are at most maxSplits.
	splitPositions = 256
	maxSplits      = 32
	// attention_tiles_* work on tiles of tileQueries tokens of a run × PageTokens positions, of heads of at most tileDims
	// dimensions; a warp has warpQueries tokens.
	tileQueries, warpQueries, tileDims = 64, 16, 128
)

// attendAction rotates queries and keys, stores keys and values, and attends.
type attendAction struct {
	header
	task  kernels.AttentionTask
	dev   driver.DevicePtr
	after *prepareAction
}

// idle: caches are filled in any case.
func (a *attendAction) idle(tokenRange) bool { return false }

// fresh tells that the token is the only one, which attention rotates and stores itself.
func (a *attendAction) fresh(p *pass, s tokenRange) bool { return p.n == 1 && s.n == 1 }

// storeLaunch rotates and stores all tokens of the batch.
func (a *attendAction) storeLaunch(p *pass) launch {
	l := launch{kernel: kernels.RopeStoreF16ID, grid: driver.D2(p.prog.Config.NHeads+2*p.prog.Config.NKVHeads, p.n)}
	if p.kvQ8 {
		l.kernel = kernels.RopeStoreQ8ID
	}
	return l
}

// attendCall is one launch of attention.
type attendCall struct {
	launch
	tokenRange
	byToken bool // blocks share tokens of one run; otherwise the heads of each token
	tiles   bool // on tensor cores, by token, too
	after   bool // its last block prepares the next product's input
}

// calls returns the launches that attend for the tokens of s. Tokens of a run that follow each other see nearly the same keys: if
// they are many, blocks share them. All others, each of whatever sequence, have blocks of their own, which share heads.
func (a *attendAction) calls(p *pass, s tokenRange) (calls []attendCall) {
	k := &p.prog.Config
	l := launch{kernel: kernels.AttentionF16ID}
	if p.kvQ8 {
		l.kernel = kernels.AttentionQ8ID
	}
	byHead := func(r tokenRange) {
		for r.n > 0 {
			n := min(r.n, gemvBatch)
			l.grid = driver.Dim{X: queryGroups(k), Y: p.splits, Z: n}
			calls = append(calls, attendCall{launch: l, tokenRange: tokenRange{r.first, n}, after: n == s.n})
			r.first, r.n = r.first+n, r.n-n
		}
	}
	few := tokenRange{first: s.first}
	for _, r := range p.runs {
		first, end := max(r.first, s.first), min(r.first+r.n, s.first+s.n)
		if first >= end {
			continue
		}
		if end-first <= gemvBatch {
			few.n += end - first
			continue
		}
		byHead(few)
		calls = append(calls, p.attendRun(tokenRange{first, end - first}))
		few = tokenRange{first: end}
	}
	byHead(few)
	return calls
}

// attendRun attends for many tokens of one run.
func (p *pass) attendRun(r tokenRange) attendCall {
	k := &p.prog.Config
	c := attendCall{tokenRange: r, byToken: true, tiles: p.tiles}
	group := queryGroup(k.HeadDim)
	switch {
	case p.tiles && p.kvQ8:
		c.kernel, group = kernels.AttentionTilesQ8ID, tileQueries
	case p.tiles:
		c.kernel, group = kernels.AttentionTilesF16ID, tileQueries
	case p.kvQ8:
		c.kernel = kernels.AttentionQ8ID
	default:
		c.kernel = kernels.AttentionF16ID
	}
	c.grid = driver.Dim{X: k.NHeads, Y: 1, Z: ceilDiv(r.n, group)}
	return c
}

func (a *attendAction) run(p *pass, s tokenRange) error {
	fresh := int32(0)
	if a.fresh(p, s) {
		fresh = 1
	} else {
		l := a.storeLaunch(p)
		if err := p.RopeStore(l.kernel, l.grid, l.shared, kernels.RopeStoreArgs{A: a.dev}); err != nil {
			return err
		}
	}
	for _, c := range a.calls(p, s) {
		if c.tiles {
			args := kernels.AttentionTilesArgs{A: a.dev, FirstToken: int32(c.first), Tokens: int32(c.n)}
			if err := p.AttentionTiles(c.kernel, c.grid, c.shared, args); err != nil {
				return err
			}
			continue
		}
		args := kernels.AttentionArgs{A: a.dev, FirstToken: int32(c.first), Tokens: int32(c.n), Fresh: fresh}
		if c.byToken {
			args.ByToken = 1
		}
		if c.after {
			args.After = a.after.after(c.n)
		}
		if err := p.Attention(c.kernel, c.grid, c.shared, args); err != nil {
			return err
		}
	}
	return nil
}

// attendsInTiles tells whether many tokens of a run attend on tensor cores.
func attendsInTiles(k *model.Config, on processor) bool {
	return on.mma && on.async && k.HeadDim <= tileDims
}

// queryGroup returns how many queries a block of the attention kernels works on.
func queryGroup(headDim int) int {
	switch {
	case headDim <= 64:
		return 4
	case headDim <= 128:
		return 2
	}
	return 1
}

// queryGroups returns the blocks that share the heads of a token.
func queryGroups(k *model.Config) int {
	return k.NKVHeads * ceilDiv(k.NHeads/k.NKVHeads, queryGroup(k.HeadDim))
}

// attentionSplits returns into how many ranges of positions attention divides the context of one token, so that every
// multiprocessor has work.
func attentionSplits(k *model.Config, sms, nCtx int) int {
	const blocksPerSM = 2
	return max(1, min(ceilDiv(blocksPerSM*sms, queryGroups(k)), nCtx/splitPositions, maxSplits))
}

// attend schedules attention with the rotations before it.
func (s *scheduler) attend(h header, n *model.Node, caches *[]cachePair) error {
	k, b := &s.p.prog.Config, &s.p.buffers
	if s.ropes[n.A] != s.ropes[n.B] || s.ropes[n.C] != 0 || s.ropes[n.A] > len(s.p.prog.Ropes) || len(*caches) == 0 {
		return fmt.Errorf("%s: the GPU rotates queries and keys alike, or neither", h.where)
	}
	a := &attendAction{header: h}
	a.task = kernels.AttentionTask{Q: b[n.A], K: b[n.B], V: b[n.C], KCache: (*caches)[0].keys, VCache: (*caches)[0].values,
		Pos: s.p.positionsDev(), Table: s.p.tablesDev(), Pages: s.p.pageTablesDev(), Rows: int64(s.p.pages) * engine.PageTokens,
		Partial: s.partial, Done: s.done + 4, Y: b[n.Dst],
		NHeads: int32(k.NHeads), NKvHeads: int32(k.NKVHeads), HeadDim: int32(k.HeadDim), Scale: n.Scale,
		RopeGain: 1, SoftCap: n.SoftCap, Window: math.MaxInt32,
		Temperature: n.Temperature, TemperatureCtx: int32(max(n.TemperatureCtx, 1))}
	if n.Window > 0 {
		a.task.Window = int32(n.Window)
	}
	s.rotate(&a.task, s.ropes[n.A]-1)
	*caches = (*caches)[1:]
	clear(s.ropes)
	s.add(a)
	return nil
}

// rotate lets attention rotate queries and keys by position embedding number i; −1: by none.
func (s *scheduler) rotate(t *kernels.AttentionTask, i int) {
	if i < 0 {
		return
	}
	r := &s.p.prog.Ropes[i]
	t.RopeDim, t.InvFreq = int32(r.Dim), s.p.freqs
	for k := range i {
		t.InvFreq += driver.DevicePtr(4 * (s.p.prog.Ropes[k].Dim / 2))
	}
	if r.Gain != 0 {
		t.RopeGain = r.Gain
	}
	if r.Dim == 0 {
		t.InvFreq = 0
	}
	if r.Neox {
		t.Neox = 1
	}
}
