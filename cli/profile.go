package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// profile returns what took the time, or nothing if that was not measured.
func (l *loaded) profile() []engine.ProfileEntry {
	if p, ok := l.backend.(engine.Profiler); ok {
		return p.Profile()
	}
	return nil
}

// profileTable lists operations with their shares of the time. Predictions have a column of their own, where there are any.
func profileTable(entries []engine.ProfileEntry) string {
	var total, predicted time.Duration
	for _, e := range entries {
		total += e.Time
		predicted += e.Predicted
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %9s %12s %7s %12s %9s", "profile", "calls", "time", "share", "bytes", "GB/s")
	if predicted > 0 {
		fmt.Fprintf(&b, " %12s", "predicted")
	}
	row := func(e engine.ProfileEntry) {
		fmt.Fprintf(&b, "\n%-24s %9d %12s %6.1f%% %12s", e.Name, e.Calls, e.Time.Round(time.Microsecond),
			100*e.Time.Seconds()/max(total.Seconds(), 1e-9), bytesText(int64(e.Bytes)))
		if e.Bytes > 0 && e.Time > 0 {
			fmt.Fprintf(&b, " %9.2f", e.Bytes/e.Time.Seconds()/1e9)
		} else {
			fmt.Fprintf(&b, " %9s", "")
		}
		if predicted > 0 {
			fmt.Fprintf(&b, " %12s", e.Predicted.Round(time.Microsecond))
		}
	}
	sum := engine.ProfileEntry{Name: "total", Time: total, Predicted: predicted}
	for _, e := range entries {
		row(e)
		sum.Calls += e.Calls
		sum.Bytes += e.Bytes
	}
	row(sum)
	return b.String()
}
