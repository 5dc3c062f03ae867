// Package memory tells how much memory the process may still take: the least of what the machine, its control groups (containers,
// systemd units) and its resource limits (ulimit) allow.
package memory

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Limit is an amount of memory and what bounds it.
type Limit struct {
	Bytes int64  // 0: unknown
	What  string // for messages: "limit of the control group /x"; empty: the machine's free memory
}

// System is where a process looks for its limits.
type System struct {
	Root string // of /proc and /sys
	// Rlimit returns the soft limits of address space and data in bytes; math.MaxUint64 or 0: none.
	Rlimit func() (addressSpace, data uint64)
}

// Available returns what this process may still take.
func Available() Limit { return System{Root: "/", Rlimit: rlimits}.Available() }

// unlimited is less than what control groups without a limit report.
const unlimited = 1 << 60

// threadSpace is address space that the runtime takes for its threads and tables besides what the program asks for.
const threadSpace = 64 << 20

// Available returns the least of all limits.
func (s System) Available() Limit {
	least := Limit{}
	take := func(bytes int64, what string) {
		if least.Bytes == 0 || bytes < least.Bytes {
			least = Limit{max(bytes, 1), what}
		}
	}
	if kB, ok := s.field("proc/meminfo", "MemAvailable:"); ok {
		take(kB<<10, "")
	}
	for _, g := range s.groups() {
		if free, ok := g.free(s); ok {
			take(free, "limit of the control group "+g.name)
		}
	}
	if s.Rlimit == nil {
		return least
	}
	space, data := s.Rlimit()
	for _, r := range []struct {
		limit       uint64
		field, what string
	}{{space, "VmSize:", "limit of the address space (ulimit -v)"}, {data, "VmData:", "limit of the data (ulimit -d)"}} {
		if r.limit == 0 || r.limit >= unlimited {
			continue
		}
		if kB, ok := s.field("proc/self/status", r.field); ok {
			take(int64(r.limit)-kB<<10-threadSpace, r.what)
		}
	}
	return least
}

// Rlimited returns what ulimit leaves to this process; 0 bytes: no limit is set, or the system does not tell.
func Rlimited() Limit {
	if l := (System{Root: "/", Rlimit: rlimits}.Available()); strings.Contains(l.What, "(ulimit ") {
		return l
	}
	return Limit{}
}

// group is a control group with the files of its version.
type group struct {
	name                string // as /proc/self/cgroup has it, or that of a parent
	dir                 string // below the root
	limit, used         string // files
	inactive, activeKey string // fields of memory.stat: pages of files, which are given up
}

// groups lists the process's memory control groups with all their parents, of both versions. A container may see its own group at
// the root of the mount while /proc names it by the host's path: what does not exist is left out by free.
func (s System) groups() (all []group) {
	b, err := os.ReadFile(filepath.Join(s.Root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[0] == "0" && f[1] == "":
			for _, mount := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
				all = append(all, parents(mount, f[2], group{limit: "memory.max", used: "memory.current",
					inactive: "inactive_file", activeKey: "active_file"})...)
			}
		case strings.Contains(","+f[1]+",", ",memory,"):
			all = append(all, parents("sys/fs/cgroup/memory", f[2], group{limit: "memory.limit_in_bytes",
				used: "memory.usage_in_bytes", inactive: "total_inactive_file", activeKey: "total_active_file"})...)
		}
	}
	return all
}

// parents returns copies of g for the group of a name below mount and for every parent.
func parents(mount, name string, g group) (all []group) {
	for name = filepath.Clean("/" + name); ; name = filepath.Dir(name) {
		g.name, g.dir = name, filepath.Join(mount, name)
		all = append(all, g)
		if name == "/" {
			return all
		}
	}
}

// free returns what the group's processes may still take together; ok is false for a group without a limit.
func (g group) free(s System) (bytes int64, ok bool) {
	limit, ok := s.number(filepath.Join(g.dir, g.limit))
	if !ok || limit >= unlimited {
		return 0, false
	}
	used, ok := s.number(filepath.Join(g.dir, g.used))
	if !ok {
		return limit, true
	}
	stat := filepath.Join(g.dir, "memory.stat")
	inactive, _ := s.field(stat, g.inactive+" ")
	active, _ := s.field(stat, g.activeKey+" ")
	return limit - max(0, used-inactive-active), true
}

// number reads a file of one number; "max" is the largest one.
func (s System) number(path string) (int64, bool) {
	b, err := os.ReadFile(filepath.Join(s.Root, path))
	if err != nil {
		return 0, false
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return math.MaxInt64, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// field reads the number after a prefix of a line.
func (s System) field(path, prefix string) (int64, bool) {
	b, err := os.ReadFile(filepath.Join(s.Root, path))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
