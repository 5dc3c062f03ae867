package gpu

import (
	"cmp"
	"regexp"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Prediction is what a described device is expected to reach. None of it is measured.
type Prediction struct {
	Described     string         `json:"described"` // the description the rates are from
	DecodeTS      float64        `json:"decode_ts"` // tokens per second of all sequences together
	PrefillTS     float64        `json:"prefill_ts"`
	PrefillTokens int            `json:"prefill_tokens"`
	Past          int            `json:"past"`      // tokens before the decoded ones
	Sequences     int            `json:"sequences"` // that are decoded together
	Launches      int            `json:"launches_per_token"`
	HostMS        float64        `json:"host_ms"` // of a token besides its kernels
	Kinds         []KindForecast `json:"kinds"`   // the rows of Tensors, added up by role
	Tensors       []KindForecast `json:"tensors"` // every tensor, and every kernel that works on none

	Prefill []KernelForecast `json:"prefill"` // what the prompt's kernels take, the slowest first
}

// KernelForecast is what all launches of a kernel are predicted to take.
type KernelForecast struct {
	Kernel   string  `json:"kernel"`
	Launches int     `json:"launches"`
	MS       float64 `json:"ms"`
	Bound    string  `json:"bound"` // what limits the longest launch
	longest  float64
}

// kernelForecasts adds up launches by kernel.
func kernelForecasts(m *predict.Model, launches []Launch) (all []KernelForecast) {
	index := map[string]int{}
	for _, l := range launches {
		i, ok := index[l.Kernel]
		if !ok {
			i, all = len(all), append(all, KernelForecast{Kernel: l.Kernel})
			index[l.Kernel] = i
		}
		k, c := &all[i], m.Time(l.Work)
		k.Launches++
		k.MS += 1e3 * c.Seconds
		if c.Seconds > k.longest {
			k.longest, k.Bound = c.Seconds, c.Bound
		}
	}
	slices.SortStableFunc(all, func(a, b KernelForecast) int { return cmp.Compare(b.MS, a.MS) })
	return all
}

// KindForecast is a tensor, or all of the same role, or a kernel that works on none.
type KindForecast struct {
	Kind     string  `json:"kind"` // "blk.0.ffn_up.weight", "blk.*.ffn_up.weight", or a kernel's name
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

// firstGraphs: boards of a higher major compute capability have drivers of CUDA 11 or later; those of this or a lower one may
// not, as the Nano.
const firstGraphs = 6

var layerName = regexp.MustCompile(`^blk\.\d+\.`)

// kindOf replaces a tensor's layer by a star.
func kindOf(name string) string { return layerName.ReplaceAllString(name, "blk.*.") }

// Predict adds up the times of the launches of f on device d, for a prompt of n tokens and a token after `past` others.
func (f *Forecast) Predict(d *predict.Device, n, past int) (*Prediction, error) {
	m, err := predict.NewModel(d)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Described: d.Title, PrefillTokens: n, Past: past, Sequences: f.Sequences, Launches: len(f.Decode),
		HostMS: d.TokenUS * 1e-3}
	m.Graph = d.CCMajor > firstGraphs // as pass.runGraph
	rows := f.tensorRows()
	seconds := d.TokenUS * 1e-6
	for _, l := range f.Decode {
		seconds += rows.launch(m, l)
	}
	p.DecodeTS = float64(f.Sequences) / seconds
	m.Graph = false
	seconds = d.TokenUS * 1e-6
	p.Prefill = kernelForecasts(m, f.Prefill)
	for _, k := range p.Prefill {
		seconds += 1e-3 * k.MS
	}
	p.PrefillTS = float64(n) / seconds
	p.Tensors = rows.list()
	kinds := &forecastRows{}
	for _, r := range p.Tensors {
		kinds.row(kindOf(r.Kind), r.Form).join(&r)
	}
	p.Kinds = kinds.list()
	slices.SortStableFunc(p.Kinds, func(a, b KindForecast) int { return cmp.Compare(b.TokenMS, a.TokenMS) })
	return p, nil
}

// forecastRows are rows of a table, in order of appearance.
type forecastRows struct {
	rows  []*KindForecast
	index map[[2]string]*KindForecast
	forms map[string]string // of tensors
}

// tensorRows returns a row for every tensor, in the order of the program.
func (f *Forecast) tensorRows() *forecastRows {
	rs := &forecastRows{forms: map[string]string{}}
	for _, t := range f.Tensors {
		r := rs.row(t.Name, t.Form)
		r.Count, r.Bytes = 1, t.Bytes
		rs.forms[t.Name] = t.Form
	}
	return rs
}

func (rs *forecastRows) row(kind, form string) *KindForecast {
	key := [2]string{kind, form}
	if rs.index == nil {
		rs.index = map[[2]string]*KindForecast{}
	}
	if rs.index[key] == nil {
		rs.index[key] = &KindForecast{Kind: kind, Form: form}
		rs.rows = append(rs.rows, rs.index[key])
	}
	return rs.index[key]
}

// launch adds a launch to the rows of its tensors, or to that of its kernel, and returns what it takes.
func (rs *forecastRows) launch(m *predict.Model, l Launch) float64 {
	c, tail := m.Time(l.Work), m.TailSeconds(l.Work)
	if tail > 0 { // the preparation of the next product's input
		rs.row("x_prepare", "").add(predict.WorkItem{Kernel: "x_prepare"}, predict.Cost{Seconds: tail, Bound: "latency"})
	}
	all := 0.0
	for _, t := range l.Items {
		all += m.ItemTime(l.Work, t).Seconds
	}
	for _, t := range l.Items {
		share := 1 / float64(len(l.Items))
		if all > 0 {
			share = m.ItemTime(l.Work, t).Seconds / all
		}
		row, form := l.Kernel, ""
		if t.Tensor != "" {
			row, form = t.Tensor, rs.forms[t.Tensor]
		}
		t.Kernel = l.Kernel
		rs.row(row, form).add(t, predict.Cost{Seconds: (c.Seconds - tail) * share, Bound: c.Bound})
	}
	if len(l.Items) == 0 {
		rs.row(l.Kernel, "").add(predict.WorkItem{Kernel: l.Kernel}, predict.Cost{Seconds: c.Seconds - tail, Bound: c.Bound})
	}
	return c.Seconds
}

// add counts an item.
func (r *KindForecast) add(t predict.WorkItem, c predict.Cost) {
	r.TokenMS += 1e3 * c.Seconds
	r.products += t.Products
	if c.Seconds > r.longest {
		r.longest, r.Kernel, r.Bound = c.Seconds, t.Kernel, c.Bound
	}
}

// join adds up rows of the same role.
func (r *KindForecast) join(o *KindForecast) {
	r.Count += o.Count
	r.Bytes += o.Bytes
	r.TokenMS += o.TokenMS
	r.products += o.products
	if o.longest > r.longest {
		r.longest, r.Kernel, r.Bound = o.longest, o.Kernel, o.Bound
	}
}

// list returns the rows with their rates.
func (rs *forecastRows) list() []KindForecast {
	var all []KindForecast
	for _, r := range rs.rows {
		if r.products > 0 && r.TokenMS > 0 {
			r.Weights = r.products / r.TokenMS / 1e6
		}
		all = append(all, *r)
	}
	return all
}
