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
	NCtx         int    // tokens of KV cache
	KVType       string // KVF16 (also if empty) or KVQ8
	MaxBatch     int    // most tokens of one Forward call; 0 = the backend's choice
	Texts        int    // texts with a cache of NCtx tokens each, for ForwardTexts; 0 = 1. Other backends than TextsBackends have one
	Threads      int    // CPU threads; 0 = all
	MemoryBudget int64  // bytes the backend may use; 0 = what is free
	Profile      bool   // measure operations, for Profiler
	// Announce, if set, receives the memory plan before anything is allocated.
	Announce func(MemoryPlan)
	// Progress, if set, is called during loading with bytes of coded weights done and in total.
	Progress func(done, total int64)
}

// TextsBackend is a Backend that continues several texts at once and reads the weights once for all of them.
type TextsBackend interface {
	// ForwardTexts runs token i at position pos of text i and returns the logits of all, row-major len(tokens) × n_vocab, valid until the next
	// call. Text 0 is that of Forward.
	ForwardTexts(ctx context.Context, tokens []int32, pos int) (logits []float32, err error)
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
	Plan    Plan   `json:"plan"`    // never PlanAuto
	Weights int64  `json:"weights"` // bytes
	KV      int64  `json:"kv"`
	Scratch int64  `json:"scratch"`
	Budget  int64  `json:"budget"` // bytes available; 0 = unknown
	Reason  string `json:"reason"` // why this plan was chosen
}

// Total returns the bytes of the whole plan.
func (m MemoryPlan) Total() int64 { return m.Weights + m.KV + m.Scratch }

// Backend runs one model on one device. It is not safe for concurrent use.
type Backend interface {
	// Load prepares the model in f, which must stay open until Close.
	Load(ctx context.Context, f *format.Reader, prog *model.Program, opt LoadOptions) error
	// Forward runs tokens at positions pos, pos+1, … and returns the logits of the last `rows` of them,
	// row-major rows × n_vocab, valid until the next call. rows may be 0. Cache entries at positions ≥ pos are overwritten.
	Forward(ctx context.Context, tokens []int32, pos, rows int) (logits []float32, err error)
	Memory() MemoryPlan
	// Describe names what really computes, for example "cpu: 2 threads, AVX-512".
	Describe() string
	Close() error
}
