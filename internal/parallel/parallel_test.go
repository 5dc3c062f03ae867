package parallel

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
)

func TestDoCallsEveryIndexOnce(t *testing.T) {
	for _, n := range []int{0, 1, 7, 1000} {
		seen := make([]int32, n)
		Do(n, func(i int) { atomic.AddInt32(&seen[i], 1) })
		for _, s := range seen {
			require.EqualValues(t, 1, s)
		}
	}
}

// A scratch belongs to one goroutine: increments without synchronization add up.
func TestScratchIsNotShared(t *testing.T) {
	scratch := make([]int, 5)
	With(scratch, 1000, func(_ int, s *int) { *s++ })
	sum := 0
	for _, n := range scratch {
		sum += n
	}
	require.Equal(t, 1000, sum)
}

func TestEachReturnsTheErrorOfTheSmallestIndex(t *testing.T) {
	for range 100 {
		var ran [64]atomic.Bool
		err := Each(t.Context(), len(ran), func(i int, _ *struct{}) error {
			ran[i].Store(true)
			if i >= 20 {
				return fmt.Errorf("item %d", i)
			}
			return nil
		})
		require.EqualError(t, err, "item 20")
		for i := range 20 {
			require.True(t, ran[i].Load())
		}
	}
}

func TestEachEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var ran atomic.Int32
	err := Each(ctx, 1_000_000, func(i int, _ *struct{}) error {
		if ran.Add(1) == 10 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, ran.Load(), int32(1000))
}

func TestFaultOfAWorkerIsRaisedInTheCaller(t *testing.T) {
	want := &fault.Error{Addr: 12345}
	err := fault.Guard(func() error {
		return Each(t.Context(), 100, func(i int, _ *struct{}) error {
			if i == 30 {
				fault.Raise(want)
			}
			return nil
		})
	})
	require.Same(t, want, err)
	require.Equal(t, want, errors.Unwrap(fmt.Errorf("x: %w", err)))
}
