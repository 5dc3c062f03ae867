// Command refit corrects the description of a device by what was measured on it: the report of the bundle (bench/bundle), or the
// results of bench/kernels. It prints how far predictions were off before and are after.
//
// usage: refit -device nano [-out internal/predict/devices/nano.json] results/report.json
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

func main() {
	device := flag.String("device", "", "`name` of the description to correct")
	out := flag.String("out", "", "`file` to write it to; default: the one in internal/predict/devices")
	flag.Parse()
	if flag.NArg() != 1 || *device == "" {
		flag.Usage()
		os.Exit(2)
	}
	if *out == "" {
		*out = "internal/predict/devices/" + *device + ".json"
	}
	if err := run(*device, flag.Arg(0), *out, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "refit:", err)
		os.Exit(1)
	}
}

// report is what refit reads of results/report.json.
type report struct {
	Rates *struct {
		Device string `json:"device"`
		Date   string `json:"date"`
		Rates  []struct {
			Name  string  `json:"name"`
			Value float64 `json:"value"`
		} `json:"rates"`
	} `json:"rates"`
	Products *struct {
		Results []product `json:"results"`
	} `json:"products"`
}

type product struct {
	MeasuredUS float64        `json:"measured_us"`
	Work       []predict.Work `json:"work"`
}

func run(device, path, out string, w io.Writer) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	d, err := predict.Find(device)
	if err != nil {
		return err
	}
	if r.Rates == nil && r.Products == nil {
		return fmt.Errorf("%s: neither rates nor products; expected results/report.json of the bundle", path)
	}
	before, err := misses(d, r.products())
	if err != nil {
		return err
	}
	after := *d
	after.Sources = map[string]string{}
	for k, v := range d.Sources {
		after.Sources[k] = v
	}
	r.takeRates(&after)
	if err := fitEfficiencies(&after, r.products(), r.source()); err != nil {
		return err
	}
	then, err := misses(&after, r.products())
	if err != nil {
		return err
	}
	printChanges(w, d, &after)
	fmt.Fprintf(w, "predicted / measured time of %d products, before: %s\n", len(before), summary(before))
	fmt.Fprintf(w, "predicted / measured time of %d products, after:  %s\n", len(then), summary(then))
	js, err := json.MarshalIndent(&after, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(js, '\n'), 0o644)
}

func (r *report) products() []product {
	if r.Products == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(r.Products.Results), func(p product) bool { return p.MeasuredUS <= 0 || len(p.Work) == 0 })
}

func (r *report) source() string {
	if r.Rates == nil {
		return "measured: products of bench/kernels"
	}
	return fmt.Sprintf("measured: %s, %s (bench/bundle)", r.Rates.Device, r.Rates.Date)
}

// numbers are the fields that are measured as they are, by their names in descriptions and reports.
func numbers(d *predict.Device) map[string]*float64 {
	return map[string]*float64{"launch_us": &d.LaunchUS, "kernel_us": &d.KernelUS, "read_gbps": &d.ReadGBps,
		"latency_clk":    &d.LatencyClk,
		"table_conflict": &d.TableConflict}
}

func (r *report) takeRates(d *predict.Device) {
	if r.Rates == nil {
		return
	}
	fields := numbers(d)
	for _, m := range r.Rates.Rates {
		if f := fields[m.Name]; f != nil && m.Value > 0 {
			*f = m.Value
			d.Sources[m.Name] = r.source()
		}
	}
}

// misses returns predicted over measured times.
func misses(d *predict.Device, products []product) ([]float64, error) {
	m, err := predict.NewModel(d)
	if err != nil {
		return nil, err
	}
	return missesOf(m, products), nil
}

func missesOf(m *predict.Model, products []product) []float64 {
	ratios := make([]float64, len(products))
	for i, p := range products {
		s := 0.0
		for _, w := range p.Work {
			s += m.Time(w).Seconds
		}
		ratios[i] = 1e6 * s / p.MeasuredUS
	}
	return ratios
}

// fitEfficiencies chooses the shares of the rates that kernels reach so that the mean square of the logarithms of misses is
// least.
func fitEfficiencies(d *predict.Device, products []product, source string) error {
	const few, lowest, step = 4, 0.2, 0.01
	if len(products) < few {
		return nil
	}
	model, err := predict.NewModel(d) // which reads d whenever it predicts
	if err != nil {
		return err
	}
	best, issue, memory := math.Inf(1), d.IssueEfficiency, d.MemoryEfficiency
	for i := lowest; i < 1+step/2; i += step {
		for m := lowest; m < 1+step/2; m += step {
			d.IssueEfficiency, d.MemoryEfficiency = i, m
			if s := meanSquare(missesOf(model, products)); s < best {
				best, issue, memory = s, i, m
			}
		}
	}
	if math.IsInf(best, 1) {
		return errors.New("no prediction is finite")
	}
	d.IssueEfficiency, d.MemoryEfficiency = math.Round(100*issue)/100, math.Round(100*memory)/100
	d.Sources["issue_efficiency"], d.Sources["memory_efficiency"] = source, source
	return nil
}

func meanSquare(ratios []float64) float64 {
	s := 0.0
	for _, r := range ratios {
		s += math.Log(r) * math.Log(r)
	}
	return s / float64(len(ratios))
}

func summary(ratios []float64) string {
	if len(ratios) == 0 {
		return "none was measured"
	}
	sum, inside := 0.0, 0
	for _, r := range ratios {
		sum += math.Log(r)
		if r >= 0.8 && r <= 1.25 {
			inside++
		}
	}
	return fmt.Sprintf("geometric mean %.2f, from %.2f to %.2f, %d within 25 %%", math.Exp(sum/float64(len(ratios))),
		slices.Min(ratios), slices.Max(ratios), inside)
}

func printChanges(w io.Writer, before, after *predict.Device) {
	was, is := numbers(before), numbers(after)
	was["issue_efficiency"], is["issue_efficiency"] = &before.IssueEfficiency, &after.IssueEfficiency
	was["memory_efficiency"], is["memory_efficiency"] = &before.MemoryEfficiency, &after.MemoryEfficiency
	var names []string
	for name := range is {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if *was[name] != *is[name] {
			fmt.Fprintf(w, "%-18s %10.4g → %.4g\n", name, *was[name], *is[name])
		}
	}
}
