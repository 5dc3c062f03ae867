package gpu

import (
	"regexp"
	"sort"

	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Prediction is what a described device is expected to reach. None of it is measured.
type Prediction struct {
	Described     string         `json:"described"` // the description the rates are from
	DecodeTS      float64        `json:"decode_ts"` // tokens per second
	PrefillTS     float64        `json:"prefill_ts"`
	PrefillTokens int            `json:"prefill_tokens"`
	Past          int            `json:"past"` // tokens before the decoded one
	Launches      int            `json:"launches_per_token"`
	Kinds         []KindForecast `json:"kinds"`
}

// KindForecast sums up tensors of the same role in all layers, or a kernel that works on none.
type KindForecast struct {
	Kind     string  `json:"kind"` // "blk.*.ffn_up.weight", or a kernel's name
	Form     string  `json:"form,omitempty"`
	Count    int     `json:"count,omitempty"` // tensors
	Bytes    int64   `json:"bytes,omitempty"`
	Kernel   string  `json:"kernel,omitempty"`      // that takes the most time of a token
	TokenMS  float64 `json:"token_ms"`              // predicted, per decoded token
	Bound    string  `json:"bound,omitempty"`       // what limits that kernel
	Weights  float64 `json:"g_weights_s,omitempty"` // 10⁹ weights per second
	products float64
	longest  float64
}

// firstGraphs: boards of a higher major compute capability have drivers of CUDA 11 or later; those of this or a lower one may not, as the Nano.
const firstGraphs = 6

var layerName = regexp.MustCompile(`^blk\.\d+\.`)

// kindOf replaces a tensor's layer by a star.
func kindOf(name string) string { return layerName.ReplaceAllString(name, "blk.*.") }

// Predict adds up the times of the launches of f on device d, for a prompt of n tokens and a token behind `past` others.
func (f *Forecast) Predict(d *predict.Device, n, past int) (*Prediction, error) {
	m, err := predict.NewModel(d)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Described: d.Title, PrefillTokens: n, Past: past, Launches: len(f.Decode)}
	kinds, forms := map[[2]string]*KindForecast{}, map[string]string{}
	kind := func(name, form string) *KindForecast {
		key := [2]string{name, form}
		if kinds[key] == nil {
			kinds[key] = &KindForecast{Kind: name, Form: form}
		}
		return kinds[key]
	}
	for _, t := range f.Tensors {
		k := kind(kindOf(t.Name), t.Form)
		k.Count++
		k.Bytes += t.Bytes
		forms[t.Name] = t.Form
	}
	m.Graph = d.CCMajor > firstGraphs // as pass.runGraph
	p.DecodeTS = 1 / (d.TokenUS*1e-6 + f.decodeSeconds(m, d.KernelUS*1e-6, forms, kind))
	m.Graph = false
	seconds := d.TokenUS * 1e-6
	for _, l := range f.Prefill {
		seconds += m.Time(l.Work).Seconds
	}
	p.PrefillTS = float64(n) / seconds
	for _, k := range kinds {
		if k.products > 0 && k.TokenMS > 0 {
			k.Weights = k.products / k.TokenMS / 1e6
		}
		p.Kinds = append(p.Kinds, *k)
	}
	sort.Slice(p.Kinds, func(i, j int) bool {
		a, b := &p.Kinds[i], &p.Kinds[j]
		if a.TokenMS != b.TokenMS {
			return a.TokenMS > b.TokenMS
		}
		return a.Kind+a.Form < b.Kind+b.Form
	})
	return p, nil
}

// decodeSeconds adds up the launches of a token, in all and by kind. forms are those of the tensors, block is what a single block's work takes.
func (f *Forecast) decodeSeconds(m *predict.Model, block float64, forms map[string]string, kind func(name, form string) *KindForecast) float64 {
	seconds := 0.0
	for _, l := range f.Decode {
		c := m.Time(l.Work)
		seconds += c.Seconds
		if l.Prepares { // one block's work, which takes about as long as a kernel without any
			tail := predict.Cost{Seconds: block, Bound: "one block"}
			seconds += tail.Seconds
			kind("x_prepare", "").add(Launch{Work: predict.Work{Kernel: "x_prepare"}}, tail, 1)
		}
		if len(l.Parts) == 0 {
			kind(l.Kernel, "").add(l, c, 1)
		}
		for _, part := range l.Parts {
			share := 1 / float64(len(l.Parts))
			if l.Products > 0 {
				share = part.Products / l.Products
			}
			kind(kindOf(part.Tensor), forms[part.Tensor]).add(l, c, share)
		}
	}
	return seconds
}

// add counts a share of a launch.
func (k *KindForecast) add(l Launch, c predict.Cost, share float64) {
	k.TokenMS += 1e3 * c.Seconds * share
	k.products += l.Products * share
	if c.Seconds > k.longest {
		k.longest, k.Kernel, k.Bound = c.Seconds, l.Kernel, c.Bound
	}
}
