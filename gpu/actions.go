package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// embedAction looks up the rows of the tokens.
type embedAction struct {
	header
	w     *weight
	dst   model.Buffer
	scale float32
}

func (a *embedAction) launch(n int) launch {
	if a.w.form == formCoded {
		return launch{kernel: kernels.EmbedRowsCodedID, grid: driver.D2(a.w.Coded.Tiles(), n)}
	}
	const threads = 256
	return launch{kernel: kernels.EmbedRowsID, grid: driver.D2(ceilDiv(a.w.Cols, threads), n)}
}

func (a *embedAction) run(p *pass, s tokenRange) error {
	l := a.launch(s.n)
	return p.EmbedRows(l.kernel, l.grid, l.shared, kernels.EmbedRowsArgs{W: a.w.descDev, TokenIds: p.tokensDev(s.first),
		Y: p.at(a.dst, s.first), Scale: a.scale})
}

// addAction adds one buffer to another.
type addAction struct {
	header
	dst, a model.Buffer
	scale  float32
}

func (a *addAction) run(p *pass, s tokenRange) error {
	return p.addTo(p.at(a.dst, s.first), p.at(a.a, s.first), a.scale, p.values(a.dst, s))
}

// values returns how many values a buffer has for the tokens of s.
func (p *pass) values(b model.Buffer, s tokenRange) int64 { return int64(s.n) * int64(p.prog.Width(b)) }

// addTo adds n values times scale.
func (p *pass) addTo(dst, src driver.DevicePtr, scale float32, n int64) error {
	return p.Add(p.addLaunch(n).grid, kernels.AddArgs{Y: dst, X: src, Scale: scale, N: n})
}

func (p *pass) addLaunch(n int64) launch {
	const threads = 256
	return launch{kernel: kernels.AddID, grid: driver.D1(int(min((n+threads-1)/threads, int64(blocksPerSM*p.sms))))}
}

// normHeadsAction normalizes every head of a buffer, or of what each head of a wider one begins with.
type normHeadsAction struct {
	header
	a, dst model.Buffer
	weight driver.DevicePtr
	heads  int
	eps    float32
}

func (a *normHeadsAction) launch(n int) launch {
	return launch{kernel: kernels.NormHeadsID, grid: driver.D2(a.heads, n)}
}

func (a *normHeadsAction) run(p *pass, s tokenRange) error {
	args := kernels.NormHeadsArgs{X: p.at(a.a, s.first), Y: p.at(a.dst, s.first), Weight: a.weight,
		Dim: int32(p.prog.Width(a.dst) / a.heads), Stride: int32(p.prog.Width(a.a) / a.heads), Eps: a.eps}
	return p.NormHeads(a.launch(s.n).grid, args)
}

// prepareAction normalizes, gates or scales the input of products and rounds it to half precision.
type prepareAction struct {
	header
	task   kernels.PrepareTask
	dev    driver.DevicePtr // the task on the device
	values bool             // it computes something, besides rounding
	// which products read the prepared vectors: those of up to gemvBatch tokens, side by side, or those of more
	forGemv, forGemm bool
	// the preceding launch already does this for up to mergedTokens tokens
	merged bool
}

// mergedTokens is the most tokens that the last block of a launch prepares vectors of, one after the other. More are prepared
// side by side by a launch of their own.
const mergedTokens = 2

// vectors tells whether a product of n tokens reads the prepared vectors.
func (a *prepareAction) vectors(n int) bool {
	if n <= gemvBatch {
		return a.forGemv
	}
	return a.forGemm
}

func (a *prepareAction) idle(s tokenRange) bool {
	return s.n == 0 || s.n <= mergedTokens && a.merged || !a.values && !a.vectors(s.n)
}

func (a *prepareAction) run(p *pass, s tokenRange) error {
	const none, each, sideBySide = 0, 1, 2
	vectors := int32(none)
	switch {
	case !a.vectors(s.n):
	case s.n <= gemvBatch:
		vectors = sideBySide
	default:
		vectors = each
	}
	return p.XPrepare(driver.D1(s.n), kernels.XPrepareArgs{P: a.dev, FirstToken: int32(s.first), Vectors: vectors})
}

// after returns the task of the last block of a launch for n tokens; 0 = none.
func (a *prepareAction) after(n int) driver.DevicePtr {
	if a == nil || n > mergedTokens {
		return 0
	}
	return a.dev
}
