package convert

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// Whatever call on an output fails, once or from then on, compress reports it and leaves the old file and nothing else.
func TestOutputFaultsLeaveTheOldFile(t *testing.T) {
	src := floatModel(31, "F16")
	for _, scheme := range []Scheme{SchemeLossless, SchemeBPW} {
		opt := Options{Scheme: scheme, BPW: 6, Tuning: Tuning{NoColumns: true}}
		for _, stays := range []bool{false, true} {
			for n := 1; ; n++ {
				dir := t.TempDir()
				path := filepath.Join(dir, "m.ellm")
				require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
				disk := &outfile.Faulty{Disk: outfile.OS{}, Fail: n, Stays: stays}
				opt.Disk = disk
				_, err := Compress(context.Background(), src, path, opt, nil)
				if disk.Calls < n {
					require.NoError(t, err)
					require.Greater(t, n, 20)
					break
				}
				require.ErrorIs(t, err, syscall.ENOSPC, "call %d, %s", n, disk.Call)
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Len(t, entries, 1, "call %d, %s", n, disk.Call)
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, "old", string(b))
				if scheme == SchemeBPW && n > 30 { // the same kinds of calls as before
					n += 7
				}
			}
		}
	}
}
