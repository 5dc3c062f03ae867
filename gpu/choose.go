package gpu

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// choosePlan decides which matrices to decode within the budget, and whether that is plan resident, fused or hybrid; `asked` is
// auto or hybrid. base is a plan without forms.
func (l *devicePlan) choosePlan(info driver.Info, f *format.Reader, prog *model.Program, asked engine.Plan, resident,
	fused *devicePlan) (*devicePlan, error) {
	hybrid := *l
	spare := l.Budget - fused.Total()
	switch {
	// small matrices: what decoding them once takes is less than the scratch to do it in every pass
	case spare < 0 && resident.Total() <= l.Budget:
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
		case len(decoded) == of && resident.Total() <= l.Budget:
			resident.Reason = "decoded weights fit, and products with them are " + l.basis() + " to be no slower"
			return resident, nil
		case len(decoded) == 0:
			fused.Reason = fmt.Sprintf("decoded weights would need %s in all", gib(resident.Total()))
			if resident.Total() <= l.Budget {
				fused.Reason = "products with coded weights are " + l.basis() + " to be faster"
			}
			return fused, nil
		}
		if err := hybrid.size(f, prog, engine.PlanHybrid, decoded); err != nil {
			return nil, err
		}
		hybrid.Reason = fmt.Sprintf("%d of %d matrices decoded, by predicted time saved per byte", len(decoded), of)
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

// basis says what plan auto goes by.
func (l *devicePlan) basis() string {
	if len(l.Measured) > 0 {
		return "measured and predicted"
	}
	return "predicted"
}

// chooseDecoded returns the matrices that plan hybrid decodes on a device with `spare` bytes beyond plan fused, by predicted time
// saved per byte, and how many matrices have a choice.
func (l *devicePlan) chooseDecoded(info driver.Info, spare int64) (decoded map[*weight]bool, of int, err error) {
	d, _, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz)
	if err != nil {
		return nil, 0, err
	}
	m, err := predict.NewModel(d)
	if err != nil {
		return nil, 0, err
	}
	var ws []*weight
	var choices []predict.Choice
	for _, w := range l.weights {
		if w.Coded == nil || w.use&model.UseProduct == 0 {
			continue
		}
		ws = append(ws, w)
		choices = append(choices, predict.Choice{Extra: w.arenaBytes(w.residentForm()) - w.arenaBytes(formCoded),
			Saved: w.saved(m, processorOf(info), l.corrected)})
	}
	decoded = map[*weight]bool{}
	for i, yes := range predict.ChooseDecoded(choices, spare) {
		if yes {
			decoded[ws[i]] = true
		}
	}
	return decoded, len(ws), nil
}

// saved returns the seconds per token that decoding w once saves.
func (w *weight) saved(m *predict.Model, on processor, c *corrections) float64 {
	seconds := func(f form) float64 {
		k := chooseProduct(w, f, on)
		return m.Time(productOf(w, f, k, 1)).Seconds * c.of(k.gemv.String(), f == formCoded)
	}
	return seconds(formCoded) - seconds(w.residentForm())
}
