// Package engine turns a loaded model and a backend into generated text. It declares the Backend
// interface and imports no backend.
package engine

import (
	"context"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Plan says where weights live while the model runs.
type Plan string

const (
	PlanAuto     Plan = "auto"
	PlanResident Plan = "resident" // decoded once at load
	PlanFused    Plan = "fused"    // decoded inside every product
	PlanHybrid   Plan = "hybrid"   // some of each
)

// Types of the KV cache's values.
const (
	KVF16 = "f16"
	KVQ8  = "q8_0" // 8 bits, a scale for each 32
)

// LoadOptions are the caller's wishes for Backend.Load.
type LoadOptions struct {
	Plan         Plan
	NCtx         int    // most positions of one sequence
	KVType       string // KVF16 (also if empty) or KVQ8
	Activations  int    // bits of activations in products on the CPU, 8 or 16; 0 = 16
	MaxBatch     int    // most tokens of one Forward call; 0 = the backend's choice
	Sequences    int    // most sequences of one Forward call; 0 = 1
	CacheTokens  int    // positions of the KV cache, shared by all sequences and rounded up to pages; 0 = Sequences · NCtx
	States       int    // places for recurrent states, of models that have one; 0 = StatePlaces' choice
	Threads      int    // CPU threads; 0 = all
	MemoryBudget int64  // bytes the backend may use; 0 = what is free
	Profile      bool   // measure operations, for Profiler
	Measure      bool   // plan auto may time products on the device before it chooses
	CacheDir     string // folder where a backend keeps what it measured of a device for the next start; "" = nowhere
	// Announce, if set, receives the memory plan before anything is allocated.
	Announce func(MemoryPlan)
	// Progress, if set, is called during loading with bytes of coded weights done and in total.
	Progress func(done, total int64)
}

// Pages returns how many pages of KV cache the options ask for.
func (o *LoadOptions) Pages() int {
	if o.CacheTokens > 0 {
		return PagesFor(o.CacheTokens)
	}
	return max(o.Sequences, 1) * PagesFor(o.NCtx)
}

// Batch returns the most tokens of one Forward call where the backend's choice is `choice`: no more than the cache has positions,
// and enough for a token of each sequence with a proposal.
func (o *LoadOptions) Batch(choice int) int {
	if o.MaxBatch > 0 {
		choice = o.MaxBatch
	}
	return max(min(choice, o.Pages()*PageTokens), 2*o.Sequences)
}

// Profiler is a backend that tells what took its time, if Load was called with Profile.
type Profiler interface {
	// Profile returns what each operation took since the last ResetProfile, the most expensive first.
	Profile() []ProfileEntry
	ResetProfile()
}

// ProfileEntry is what an operation took, summed over its calls.
type ProfileEntry struct {
	Name      string        `json:"name"` // of a kernel or an operation
	Calls     int64         `json:"calls"`
	Time      time.Duration `json:"ns"`           // measured
	Bytes     float64       `json:"bytes"`        // of weights and caches read; 0 = unknown
	Predicted time.Duration `json:"predicted_ns"` // where the device is described; 0 = not predicted
}

// MemoryPlan is what a backend will allocate, known before it does.
type MemoryPlan struct {
	Device  string `json:"device"`
	Plan    Plan   `json:"plan"`             // never PlanAuto
	Weights int64  `json:"weights"`          // bytes
	KV      int64  `json:"kv"`               // keys and values, and states of sequences
	Pages   int    `json:"pages"`            // of the KV cache, PageTokens positions each
	States  int    `json:"states,omitempty"` // places for states of sequences
	Batch   int    `json:"batch"`            // most tokens of one Forward call
	Scratch int64  `json:"scratch"`
	Budget  int64  `json:"budget"`          // bytes available; 0 = unknown
	Limit   string `json:"limit,omitempty"` // what bounds Budget, if not the device's free memory
	Reason  string `json:"reason"`          // why this plan was chosen

	Measured []ProductTime `json:"measured,omitempty"` // by which plan auto corrected predictions
}

// ProductTime is how long a device took for a product of one vector.
type ProductTime struct {
	Tensor      string  `json:"tensor"`
	Form        string  `json:"form"`  // of the matrix in device memory
	Coded       bool    `json:"coded"` // it is decoded in every product
	Kernel      string  `json:"kernel"`
	MeasuredUS  float64 `json:"measured_us"`
	PredictedUS float64 `json:"predicted_us"`
	Kept        bool    `json:"kept"` // measured at an earlier start
}

// Total returns the bytes of the whole plan.
func (m MemoryPlan) Total() int64 { return m.Weights + m.KV + m.Scratch }

// Backend runs one model on one device. It is not safe for concurrent use. On the CPU a sequence has the same logits, bit for
// bit, whatever else is in its batches; a GPU rounds differently for few and for many tokens, so that a text may depend on
// how many others are computed with it.
type Backend interface {
	// Load prepares the model in f, which must stay open until Close.
	Load(ctx context.Context, f *format.Reader, prog *model.Program, opt LoadOptions) error
	// Forward runs a batch and returns the logits that are wanted, row-major Batch.Rows() × n_vocab in the order of the runs,
	// valid until the next call.
	Forward(ctx context.Context, b Batch) (logits []float32, err error)
	Memory() MemoryPlan
	// Describe names what really computes, for example "cpu: 2 threads, AVX-512".
	Describe() string
	Close() error
}
