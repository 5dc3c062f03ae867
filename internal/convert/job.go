package convert

import (
	"context"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// Progress receives how many weights of a stage are done. It is called from one goroutine at a time.
type Progress func(stage string, done, total int64)

// work is what loops over weights need: when to stop, and whom to tell.
type work struct {
	ctx      context.Context
	progress Progress
	weights  int64 // of the whole model
}

func newWork(ctx context.Context, progress Progress) work {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	return work{ctx: ctx, progress: progress}
}

// findings are what a model's inputs tell: from an importance matrix, calibration, or random tokens.
type findings struct {
	fold        *folding // nil: columns are as in the source
	factors     *factors // of error feedback, or nil
	gains       []Gain
	columns     map[string]float64 // matrix → mean square that feedback leaves of an input
	sensitivity *sensitivity       // nil: nothing is known
	seen        *imatrix.File      // mean squares that calibration found
}

// fitState is what SchemeBPW learns from a file that missed its size, for the next try.
type fitState struct {
	kappa        float64 // cell width of the last exact pass, in units of each matrix's rms and offset
	overheadBits float64 // bits that matrices take beyond their entropy
	bias         float64 // bits by which files turned out larger than expected
}

// job is one run of Compress.
type job struct {
	work
	findings
	fitState
	src     source.Model
	opt     Options
	config  *model.Config
	w       *format.Writer // nil until the file is started
	tensors []*tensorJob
}
