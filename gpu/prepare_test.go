package gpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
)

// prepareCase is a launch of x_prepare on random values: rows first … first + tokens − 1.
type prepareCase struct {
	cols, tokens, first        int
	up, norm, colScale, values bool
	magnitude                  float64
}

func (c prepareCase) name() string {
	return fmt.Sprintf("%d columns, up %v, norm %v, col_scale %v, magnitude %g", c.cols, c.up, c.norm, c.colScale, c.magnitude)
}

const prepareEps = 1e-5

// want computes v of a row in float64.
func (c prepareCase) want(x, up, norm, colScale []float32) []float32 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	out := make([]float32, c.cols)
	for i := range out {
		v := float64(x[i])
		if c.norm {
			v = v / math.Sqrt(sum/float64(c.cols)+prepareEps) * float64(norm[i])
		}
		if c.up {
			v = v / (1 + math.Exp(-v)) * float64(up[i])
		}
		if c.colScale {
			v *= float64(colScale[i])
		}
		out[i] = float32(v)
	}
	return out
}

func (c prepareCase) check(r *rig) {
	rng := testRand()
	rows := c.first + c.tokens
	x, gate, norm, scale := normals(rng, rows*c.cols), normals(rng, rows*c.cols), normals(rng, c.cols), normals(rng, c.cols)
	for i := range x {
		x[i] *= float32(c.magnitude)
	}
	coded := &format.Coded{Rows: 1, Cols: c.cols}
	stride := allocationBytes(preparedBytes(coded))
	t := kernels.PrepareTask{X: up(r, x), ActLinear: 1, Xp: room[uint8](r, c.tokens*int(stride)), XpStride: stride,
		Cols: int32(c.cols), Steps: int32(coded.Steps()),
		StepsPerTile: int32(coded.StepsPerTile()), Tiles: int32(coded.Tiles()), Eps: prepareEps}
	if c.norm {
		t.Norm = up(r, norm)
	}
	if c.up {
		t.Up = up(r, gate)
	}
	if c.colScale {
		t.ColScale = up(r, scale)
	}
	if c.values {
		t.Y = room[float32](r, rows*c.cols)
	}
	b, err := structBytes(&t)
	r.ok(err)
	r.ok(r.XPrepare(driver.D1(c.tokens), kernels.XPrepareArgs{P: up(r, b), FirstToken: int32(c.first), Vectors: 1}))
	for i := range c.tokens {
		row := (c.first + i) * c.cols
		want := c.want(x[row:row+c.cols], gate[row:row+c.cols], norm, scale)
		if c.values {
			requireClose(r.t, want, down[float32](r, t.Y+driver.DevicePtr(4*row), c.cols), 1e-11, c.name())
		}
		checkPrepared(r, t.Xp+driver.DevicePtr(i)*driver.DevicePtr(stride), want, coded, 1e-4*max(c.magnitude, 1e-30)*float64(c.cols),
			c.name())
	}
}

// checkPrepared compares a prepared vector with v; sums may differ by sumDelta.
func checkPrepared(r *rig, xp driver.DevicePtr, v []float32, c *format.Coded, sumDelta float64, msg string) {
	unit := down[float32](r, xp, 2)
	halves := down[uint16](r, xp+64, ceilDiv(c.Steps(), 16)*1024)
	got, sum := make([]float32, len(v)), 0.0
	for i := range 64 * c.Steps() {
		f := float16.Frombits(halves[i]).Float32()
		require.Less(r.t, math.Abs(float64(f)), 4.01, msg)
		if i >= len(v) {
			require.Zero(r.t, f, "padding: %s", msg)
			continue
		}
		got[i] = unit[0] * f
		sum += float64(got[i])
	}
	requireClose(r.t, v, got, 1e-6, msg)
	assert.InDelta(r.t, sum, float64(unit[1]), sumDelta, msg)
}

// The prepared vector represents the input up to the rounding of a half whose unit is chosen for the largest value.
func TestXPrepare(t *testing.T) {
	r := newRig(t)
	for _, cols := range []int{1, 64, 577, 2112} {
		for _, magnitude := range []float64{0, 1e-30, 1, 1e6} {
			prepareCase{cols: cols, tokens: 2, magnitude: magnitude}.check(r)
		}
		prepareCase{cols: cols, tokens: 3, first: 2, norm: true, values: true, magnitude: 3}.check(r)
		prepareCase{cols: cols, tokens: 1, up: true, values: true, magnitude: 1}.check(r)
		prepareCase{cols: cols, tokens: 2, first: 1, colScale: true, values: true, magnitude: 1}.check(r)
		prepareCase{cols: cols, tokens: 1, norm: true, colScale: true, values: true, magnitude: 1}.check(r)
	}
}
