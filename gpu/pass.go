package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// gemvBatch is the most tokens that products of few vectors take (SLOTS of cuda/prepared.cuh); more go through gemm, for which
// coded matrices are first decoded.
const gemvBatch = 8

// tokenRange are n tokens of the batch from token first on.
type tokenRange struct{ first, n int }

// action is what the device does for one node of the program or for several at once. The schedule lists them in order.
type action interface {
	// run does it for the tokens of s.
	run(p *pass, s tokenRange) error
	// label names it in errors and forecasts.
	label() string
	// tokens returns which of the batch's tokens need it; wanted are those whose logits are wanted.
	tokens(p *pass, wanted tokenRange) tokenRange
	// idle tells that there is nothing to do for the tokens of s.
	idle(s tokenRange) bool
}

// header is what all actions have.
type header struct {
	where string
	last  bool // only tokens whose logits are wanted need it
}

func (h header) label() string { return h.where }

func (h header) tokens(p *pass, wanted tokenRange) tokenRange {
	if h.last {
		return wanted
	}
	return tokenRange{0, p.n}
}

func (h header) idle(s tokenRange) bool { return s.n == 0 }

// launch is a kernel with its grid. What executes it and what predicts its time start from the same one.
type launch struct {
	kernel kernels.ID
	grid   driver.Dim
	shared int // bytes of dynamic shared memory of a block
}

// work returns the launch with what it has to do with some matrices or buffers.
func (l launch) work(items ...predict.WorkItem) predict.Work {
	return predict.Work{Kernel: l.kernel.String(), Blocks: l.grid.X * l.grid.Y * max(l.grid.Z, 1), Threads: l.kernel.Block(),
		Shared: l.shared, Items: items}
}

// observer times launches.
type observer interface {
	kernels.Observer
	// expect describes the work of the next launches.
	expect(work []predict.Work)
	// read adds the times of the launches since the last read.
	read() error
}

// passGraph are the launches of a batch as one graph, and how many they are; nil = not captured yet.
type passGraph struct {
	driver.Graph
	launches int64
}

// cachePair are the caches of a layer (cuda/kv_cache.cuh).
type cachePair struct{ keys, values driver.DevicePtr }

// tokenRun are tokens of one sequence that follow each other, in the batch being run.
type tokenRun struct {
	tokenRange
	pos int // of the first
}

// pass executes the forward pass: activations, caches and the schedule, all in place before the first token.
type pass struct {
	*kernels.Launcher
	prog      *model.Program
	sms       int
	nCtx      int
	batch     int  // most tokens at a time
	logitRows int  // most rows of logits at a time
	splits    int  // of the positions that attention works on at a time
	tiles     bool // many tokens of a run attend on tensor cores
	kvQ8      bool
	pages     int   // of a cache
	kvBytes   int64 // of one cache
	caches    []cachePair
	actions   []action
	observer  observer                 // nil = launches are not timed
	graphs    [gemvBatch + 1]passGraph // by the number of tokens, all with logits
	noGraph   bool                     // the driver cannot
	n         int                      // tokens of the batch being run
	runs      []tokenRun               // of the batch being run
	ids       []int32                  // of the batch being run: as idsDev
	logits    []float32                // where its logits go
	row       []float32                // where those of one token go

	buffers  [model.NumBuffers]driver.DevicePtr // float32 [batch][width]; logits: [logitRows][width]
	scaled   driver.DevicePtr                   // float32 [batch][cols]: inputs times column scales
	prepared driver.DevicePtr                   // [batch] vectors from x_prepare
	side     driver.DevicePtr                   // up to gemvBatch vectors from x_prepare, side by side
	preparedStride,
	planeBytes int64
	planes [2]driver.DevicePtr // decoded pieces of coded matrices; 0 = none is coded
	ring   *planeRing          // of planes; nil = none is coded
	idsDev driver.DevicePtr    // int32 [3][batch] positions, tokens, beginnings of their page tables; then page tables
	states states              // of models that have any
	freqs  driver.DevicePtr    // float32 [rope_dim/2] of every position embedding
}

// at returns where token t of a buffer is.
func (p *pass) at(b model.Buffer, t int) driver.DevicePtr {
	return p.buffers[b] + driver.DevicePtr(4*t*p.prog.Width(b))
}

// Where the positions of the tokens are, the tokens, the beginnings of their page tables, and page tables.
func (p *pass) positionsDev() driver.DevicePtr   { return p.idsDev }
func (p *pass) tokensDev(t int) driver.DevicePtr { return p.idsDev + driver.DevicePtr(4*(p.batch+t)) }
func (p *pass) tablesDev() driver.DevicePtr      { return p.idsDev + driver.DevicePtr(4*2*p.batch) }
func (p *pass) pageTablesDev() driver.DevicePtr  { return p.idsDev + driver.DevicePtr(4*3*p.batch) }

func ceilDiv(a, b int) int { return (a + b - 1) / b }
