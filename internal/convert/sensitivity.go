package convert

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// sensitivity knows how much errors of each matrix hurt. With h the second moment of the derivatives by a row's output and c that
// of what error feedback leaves of a column's input, a weight rounded with step Δ adds h·c·Δ²/24 to the KL divergence: bits are
// spent best where h·c·Δ² is the same for all weights.
type sensitivity struct {
	*calibrate.Sensitivity
	columns map[string]float64 // matrix → mean of c
}

// How far steps move from the fixed rules to what sensitivities ask for, which are estimates themselves.
const (
	matrixShare = 1.
	rowShare    = 0.5
)

// Limits of what a row's step is multiplied by.
const (
	minRowFactor = 1. / 4
	maxRowFactor = 4
)

// rowFactors returns what the steps of a matrix's rows are multiplied by: the share of the way from their magnitudes' rule to
// their sensitivity's. rule has the steps by the former, relative to the matrix's. Nil: nothing is known.
func (s *sensitivity) rowFactors(name string, rule []float64, share float64) []float32 {
	h := s.Rows[name]
	// tokens that the text lacks matter as well
	if share == 0 || len(h) != len(rule) || name == model.Output || name == model.TokenEmbd {
		return nil
	}
	mean := 0.0
	for _, x := range h {
		mean += x / float64(len(h))
	}
	if mean == 0 {
		return nil
	}
	out := make([]float32, len(h))
	for r, x := range h {
		f := math.Pow(math.Sqrt(max(x, meanFloor*mean)/mean)*max(rule[r], minRowFactor), -share)
		out[r] = float32(min(max(f, minRowFactor), maxRowFactor))
	}
	return out
}

// step returns the step that a matrix should have relative to others, if its rows' steps relate to it by steps; 0: nothing is
// known.
func (s *sensitivity) step(name string, steps []float64) float64 {
	sum := 0.0
	if h, c := s.Rows[name], s.columns[name]; len(h) == len(steps) && c > 0 {
		for r, x := range h {
			sum += c * x * steps[r] * steps[r]
		}
	}
	if name == model.TokenEmbd {
		for _, x := range s.Embedding { // each token uses one row
			sum += x / float64(len(s.Embedding))
		}
	}
	if sum == 0 {
		return 0
	}
	return 1 / math.Sqrt(sum/float64(len(steps)))
}

// applySensitivity moves the steps of the matrices towards what their sensitivities ask for.
func (j *job) applySensitivity(ms []*uniformQuantizer) {
	if j.sensitivity == nil || j.opt.Calibration.NoSensitivity {
		return
	}
	want, n, shift := make([]float64, len(ms)), 0.0, 0.0
	for i, m := range ms {
		if m.q.MeanAbs == 0 { // nothing but zeros
			continue
		}
		rows := m.t.info.Rows
		steps := make([]float64, rows)
		for r, s := range m.stats {
			steps[r] = math.Pow(s.SumAbs/float64(m.t.info.Cols)/m.q.MeanAbs, m.q.Exponent)
		}
		m.rowFactor = j.sensitivity.rowFactors(m.t.info.Name, steps, rowShare)
		for r, x := range m.rowFactor {
			steps[r] *= float64(x)
		}
		if want[i] = j.sensitivity.step(m.t.info.Name, steps); want[i] > 0 {
			n += float64(m.t.weights())
			shift += float64(m.t.weights()) * math.Log(m.stepAtKappa1/want[i])
		}
	}
	for i, m := range ms {
		if want[i] > 0 {
			m.stepAtKappa1 *= math.Exp(matrixShare * (math.Log(want[i]/m.stepAtKappa1) + shift/n))
		}
	}
}
