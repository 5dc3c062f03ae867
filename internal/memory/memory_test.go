package memory

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const mib = 1 << 20

// system makes a tree of /proc and /sys.
func system(t *testing.T, files map[string]string) System {
	t.Helper()
	root := t.TempDir()
	files["proc/meminfo"] = "MemTotal:       8388608 kB\nMemAvailable:   4194304 kB\n"
	files["proc/self/status"] = "Name:\tx\nVmSize:\t  1048576 kB\nVmData:\t  102400 kB\n"
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	return System{Root: root}
}

func TestMachine(t *testing.T) {
	assert.Equal(t, Limit{4096 * mib, ""}, system(t, map[string]string{}).Available())
	assert.Zero(t, System{Root: t.TempDir()}.Available(), "no /proc: unknown")
}

func TestControlGroupVersion2(t *testing.T) {
	s := system(t, map[string]string{
		"proc/self/cgroup":                           "0::/a.slice/b.service\n",
		"sys/fs/cgroup/a.slice/memory.max":           "209715200\n",
		"sys/fs/cgroup/a.slice/memory.current":       "52428800\n",
		"sys/fs/cgroup/a.slice/memory.stat":          "anon 1\ninactive_file 10485760\nactive_file 10485760\n",
		"sys/fs/cgroup/a.slice/b.service/memory.max": "max\n",
	})
	assert.Equal(t, Limit{(200 - 50 + 20) * mib, "limit of the control group /a.slice"}, s.Available(), "a parent's limit counts")
}

func TestControlGroupOfAContainer(t *testing.T) {
	s := system(t, map[string]string{
		"proc/self/cgroup":         "0::/docker/0123\n",
		"sys/fs/cgroup/memory.max": "104857600\n",
	})
	assert.Equal(t, Limit{100 * mib, "limit of the control group /"}, s.Available())
}

func TestControlGroupVersion1(t *testing.T) {
	files := map[string]string{
		"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
		"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "73400320\n",
		"sys/fs/cgroup/memory/x/memory.usage_in_bytes": "20971520\n",
		"sys/fs/cgroup/memory/x/memory.stat":           "inactive_file 1\ntotal_inactive_file 5242880\ntotal_active_file 0\n",
	}
	assert.Equal(t, Limit{(70 - 20 + 5) * mib, "limit of the control group /x"}, system(t, files).Available())
	files["sys/fs/cgroup/memory/x/memory.limit_in_bytes"] = "9223372036854771712\n"
	assert.Equal(t, "", system(t, files).Available().What, "no limit")
}

func TestFullControlGroupLeavesNothing(t *testing.T) {
	s := system(t, map[string]string{
		"proc/self/cgroup":             "0::/\n",
		"sys/fs/cgroup/memory.max":     "1000\n",
		"sys/fs/cgroup/memory.current": "2000\n",
	})
	assert.EqualValues(t, 1, s.Available().Bytes, "0 would mean unknown")
}

func TestResourceLimits(t *testing.T) {
	s := system(t, map[string]string{})
	s.Rlimit = func() (uint64, uint64) { return 2048 * mib, ^uint64(0) }
	assert.Equal(t, Limit{(2048 - 1024 - 64) * mib, "limit of the address space (ulimit -v)"}, s.Available())
	s.Rlimit = func() (uint64, uint64) { return 0, 200 * mib }
	assert.Equal(t, Limit{(200 - 100 - 64) * mib, "limit of the data (ulimit -d)"}, s.Available())
}

func TestThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux tells what is available; CI runs this there")
	}
	assert.Greater(t, Available().Bytes, int64(mib))
}
