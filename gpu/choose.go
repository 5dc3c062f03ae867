package gpu

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// choosePlan decides which matrices to decode within the budget, and whether that is plan resident, fused or hybrid; `asked` is
// auto or hybrid. base is a layout without a plan.
func (l *layout) choosePlan(info driver.Info, f *format.Reader, prog *model.Program, asked engine.Plan, resident, fused *layout) (*layout, error) {
	hybrid := *l
	spare := l.Budget - fused.Total()
	switch {
	case spare < 0 && resident.Total() <= l.Budget: // small matrices: what decoding them once takes is less than the scratch to do it in every pass
		resident.Reason = "coded weights do not fit together with the scratch they need"
		return resident, nil
	case spare < 0:
		fused.Reason = "even coded weights do not fit"
		return fused, nil
	}
	try := spare
	if resident.Total() <= l.Budget { // its scratch may be smaller than fused's
		try = math.MaxInt64 / 2
	}
	for {
		decoded, of, err := hybrid.chooseDecoded(info, try)
		if err != nil {
			return nil, err
		}
		switch {
		case asked == engine.PlanHybrid:
		case decoded == of && resident.Total() <= l.Budget:
			resident.Reason = "decoded weights fit, and products with them are predicted to be no slower"
			return resident, nil
		case decoded == 0:
			fused.Reason = fmt.Sprintf("decoded weights would need %s in all", gib(resident.Total()))
			if resident.Total() <= l.Budget {
				fused.Reason = "products with coded weights are predicted to be faster"
			}
			return fused, nil
		}
		if err := hybrid.size(f, prog, engine.PlanHybrid); err != nil {
			return nil, err
		}
		hybrid.Reason = fmt.Sprintf("%d of %d matrices decoded, by predicted time saved per byte", decoded, of)
		over := hybrid.Total() - l.Budget
		switch {
		case over <= 0:
			return &hybrid, nil
		case try == 0:
			fused.Reason = "nothing is left for decoded weights"
			return fused, nil
		}
		try = max(min(try, spare)-over, 0) // scratch depends on the choice, too
	}
}

// chooseDecoded marks the matrices that plan hybrid decodes on a device with `spare` bytes beyond plan fused, by predicted time
// saved per byte. It returns how many of how many matrices with a choice that are.
func (l *layout) chooseDecoded(info driver.Info, spare int64) (decoded, of int, err error) {
	d, _, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz)
	if err != nil {
		return 0, 0, err
	}
	m, err := predict.NewModel(d)
	if err != nil {
		return 0, 0, err
	}
	tr := newTracer(info)
	var ws []*weight
	var choices []predict.Choice
	for _, w := range l.weights {
		w.decoded = false
		if w.Coded == nil || w.use&useProduct == 0 {
			continue
		}
		saved, err := tr.saved(m, w)
		if err != nil {
			return 0, 0, err
		}
		ws = append(ws, w)
		choices = append(choices, predict.Choice{Extra: w.span(w.residentForm()) - w.span(formCoded), Saved: saved})
	}
	for i, yes := range predict.ChooseDecoded(choices, spare) {
		ws[i].decoded = yes
		if yes {
			decoded++
		}
	}
	return decoded, len(ws), nil
}

// saved returns the seconds per token that decoding w once saves.
func (t *tracer) saved(m *predict.Model, w *weight) (float64, error) {
	coded, err := t.product(w, formCoded)
	if err != nil {
		return 0, err
	}
	plane, err := t.product(w, w.residentForm())
	if err != nil {
		return 0, err
	}
	saved := 0.0
	for _, l := range coded {
		saved += m.Time(l.Work).Seconds
	}
	for _, l := range plane {
		saved -= m.Time(l.Work).Seconds
	}
	return saved, nil
}

// descSpan returns the bytes of the arena that the descriptor of w takes.
func (w *weight) descSpan() int64 {
	if w.use&useVector != 0 {
		return 0
	}
	return blockSpan(int64(binary.Size(&w.desc)))
}

// span returns the bytes of the arena that w takes in a form, its descriptor aside.
func (w *weight) span(f form) int64 {
	n := int64(0)
	for _, p := range w.parts(f) {
		n += blockSpan(p.size)
	}
	if f == formPacked && w.packed.clipped { // load keeps the coded form if more is clipped than there is room for
		n = max(n, w.span(formCoded))
	}
	return n
}
