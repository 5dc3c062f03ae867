package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// report is what -json writes.
type report struct {
	Device    string       `json:"device"`
	Timed     bool         `json:"timed"`                 // false: only checked, on the emulator
	Described string       `json:"described,omitempty"`   // whose rates the predictions are from
	CopyGBps  float64      `json:"copy_gb_s,omitempty"`   // measured: read and written by a copying kernel
	CuBLAS    []cublasTime `json:"cublas_bf16,omitempty"` // measured
	Results   []result     `json:"results"`
	Failed    []string     `json:"failed,omitempty"` // cases without a result, and why
}

// cublasTime is a bf16 product of one vector in cuBLAS.
type cublasTime struct {
	Rows       int     `json:"rows"`
	Cols       int     `json:"cols"`
	MeasuredUS float64 `json:"measured_us"`
}

// result is one case. Measured and derived from measured times: 0 where nothing was timed.
type result struct {
	Model        string  `json:"model"`
	Rows         int     `json:"rows"`
	Cols         int     `json:"cols"`
	Tokens       int     `json:"tokens"`
	Coding       string  `json:"coding"`
	MaxLen       int     `json:"max_len"`
	RowsPerChunk int     `json:"rows_per_chunk"`
	Plan         string  `json:"plan"`
	Form         string  `json:"form"`
	Kernel       string  `json:"kernel"`          // or several, separated by commas
	Bits         float64 `json:"bits_per_weight"` // as read from device memory
	Error        float64 `json:"nmse"`
	MeasuredUS   float64 `json:"measured_us,omitempty"`
	GBps         float64 `json:"gb_s,omitempty"`
	GWeights     float64 `json:"g_weights_s,omitempty"` // times tokens
	OfCopy       float64 `json:"of_copy_rate,omitempty"`
	// time to start all instructions of the main loops, over the time measured
	OfIssue     float64 `json:"of_issue_limit,omitempty"`
	OfCuBLAS    float64 `json:"times_cublas_bf16,omitempty"`
	PredictedUS float64 `json:"predicted_us,omitempty"`
	issueUS     float64
	Work        []predict.Work `json:"work,omitempty"` // what the prediction is made from (bench/refit)
}

func newResult(s shape, st setting, f *format.Reader, single *gpu.Single, m *predict.Model) result {
	t, _ := f.Tensor("w")
	r := result{Model: s.model, Rows: s.rows, Cols: s.cols, Tokens: st.tokens, Coding: st.coding.name, MaxLen: st.maxLen,
		RowsPerChunk: t.Coded.Coding.RowsPerGroup,
		Plan:         string(st.plan), Form: single.Form, Bits: 8 * float64(single.Bytes) / float64(s.rows*s.cols)}
	var kernels []string
	for _, l := range single.Launches {
		if m != nil {
			r.PredictedUS += 1e6 * m.Time(l.Work).Seconds
			r.issueUS += 1e6 * m.IssueSeconds(l.Work)
			r.Work = append(r.Work, l.Work)
		}
		if !slices.Contains(kernels, l.Kernel) {
			kernels = append(kernels, l.Kernel)
		}
	}
	r.Kernel = strings.Join(kernels, ", ")
	return r
}

// rate fills in what follows from the measured time.
func (r *result) rate(rep *report) {
	if r.MeasuredUS == 0 {
		return
	}
	weights := float64(r.Rows) * float64(r.Cols)
	r.GBps = weights * r.Bits / 8 / r.MeasuredUS / 1e3
	r.GWeights = weights * float64(r.Tokens) / r.MeasuredUS / 1e3
	r.OfCopy = r.GBps / rep.CopyGBps
	r.OfIssue = r.issueUS / r.MeasuredUS
	for _, c := range rep.CuBLAS {
		if c.Rows == r.Rows && c.Cols == r.Cols && r.Tokens == 1 {
			r.OfCuBLAS = c.MeasuredUS / r.MeasuredUS
		}
	}
}

// line is for the terminal.
func (r *result) line(timed bool) string {
	s := fmt.Sprintf("%5d × %5d × %3d  %-16s L≤%-2d %3d rows  %-8s %-20s", r.Rows, r.Cols, r.Tokens, r.Coding, r.MaxLen,
		r.RowsPerChunk, r.Form, r.Kernel)
	if !timed {
		return s + fmt.Sprintf("  error %.1e, not timed", r.Error)
	}
	return s + fmt.Sprintf(" %9.1f us %8.1f GB/s %8.1f Gw/s, predicted %9.1f us", r.MeasuredUS, r.GBps, r.GWeights, r.PredictedUS)
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Products on %s\n\n", r.Device)
	if !r.Timed {
		b.WriteString("Computed and checked on the emulator; nothing was timed.\n")
		return b.String()
	}
	fmt.Fprintf(&b, "Copying kernel: %.1f GB/s (read and written, measured). Predictions: rates of %s, not measured.\n\n",
		r.CopyGBps, r.Described)
	b.WriteString("| rows × columns | tokens | coding | limit | rows per chunk | form | kernel | bits | measured µs | GB/s | G " +
		"weights/s | of copy rate | of issue limit | × cuBLAS bf16 | predicted µs |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, m := range r.Results {
		cublas := ""
		if m.OfCuBLAS > 0 {
			cublas = fmt.Sprintf("%.2f", m.OfCuBLAS)
		}
		fmt.Fprintf(&b, "| %d × %d | %d | %s | %d | %d | %s | %s | %.2f | %.1f | %.1f | %.1f | %.0f %% | %.0f %% | %s | %.1f |\n",
			m.Rows, m.Cols, m.Tokens, m.Coding, m.MaxLen,
			m.RowsPerChunk, m.Form, m.Kernel, m.Bits, m.MeasuredUS, m.GBps, m.GWeights, 100*m.OfCopy, 100*m.OfIssue, cublas, m.PredictedUS)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "\nFailed: %s\n", f)
	}
	return b.String()
}

// readCuBLAS reads what bench/kernels/cublas.py wrote; without a file there is nothing to compare with.
func readCuBLAS(path string) ([]cublasTime, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var t []cublasTime
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
