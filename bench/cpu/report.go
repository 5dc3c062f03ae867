package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// row is one line of the table. Ours and Peer are samples in the order of the rounds, Limit is one number in the same unit. Lower
// says that less is better.
type row struct {
	What      string    `json:"what"`
	Unit      string    `json:"unit"`
	Ours      []float64 `json:"ours"`
	Peer      []float64 `json:"peer,omitempty"`
	PeerName  string    `json:"peer_name,omitempty"`
	Limit     float64   `json:"limit,omitempty"`
	LimitName string    `json:"limit_name,omitempty"`
	Lower     bool      `json:"lower_is_better,omitempty"`

	Bytes    float64 `json:"bytes,omitempty"` // read for one unit, which gives the limit
	AllCores bool    `json:"all_cores,omitempty"`
}

// machine says where results come from.
type machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	System    string `json:"system"`
	Decoding  string `json:"decoding"`
	Products  string `json:"products"`
}

// report is everything measured.
type report struct {
	Machine machine `json:"machine"`
	Date    string  `json:"date"`
	Commit  string  `json:"commit"`
	Rows    []row   `json:"rows"`
}

// finish turns the bytes that rows read into limits.
func (r *report) finish(mem *bandwidth) {
	for i := range r.Rows {
		x := &r.Rows[i]
		if x.Bytes == 0 {
			continue
		}
		x.Limit = mem.oneCore() / x.Bytes
		if x.AllCores {
			x.Limit = mem.allCores() / x.Bytes
		}
	}
	r.Rows = append(mem.rows(), r.Rows...)
}

func (r *report) add(x row) { r.Rows = append(r.Rows, x) }

func describe() machine {
	return machine{Processor: processor(), Cores: runtime.GOMAXPROCS(0), System: runtime.GOOS + "/" + runtime.GOARCH,
		Decoding: decode.Best().String(), Products: dot.Best().String()}
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, "\t\n :")
		}
	}
	return ""
}

// commit names the sources, or is empty outside of a repository.
func commit() string {
	out, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// print writes the table in Markdown.
func (r *report) print(w io.Writer) {
	m := &r.Machine
	fmt.Fprintf(w, "%s, %d cores, %s; decoding %s, products %s; %s, %s\n\n", m.Processor, m.Cores, m.System, m.Decoding,
		m.Products, r.Date, r.Commit)
	fmt.Fprintln(w, "| what | unit | ours | peer | ours ÷ peer | limit | ours ÷ limit |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for i := range r.Rows {
		x := &r.Rows[i]
		peer, ratio, limit, share := "", "", "", ""
		if len(x.Peer) > 0 {
			peer = fmt.Sprintf("%s (%s)", number(median(x.Peer)), x.PeerName)
			ratio = fmt.Sprintf("%.2f", medianRatio(x.Ours, x.Peer))
		}
		if x.Limit > 0 {
			limit = fmt.Sprintf("%s (%s)", number(x.Limit), x.LimitName)
			share = fmt.Sprintf("%.0f %%", 100*median(x.Ours)/x.Limit)
		}
		unit := x.Unit
		if x.Lower {
			unit += " (less is better)"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", x.What, unit, number(median(x.Ours)), peer, ratio, limit, share)
	}
}

// number writes v with three significant digits.
func number(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
