//go:build unix

package memory

import "golang.org/x/sys/unix"

func rlimits() (addressSpace, data uint64) {
	var space, d unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_AS, &space) == nil {
		addressSpace = uint64(space.Cur)
	}
	if unix.Getrlimit(unix.RLIMIT_DATA, &d) == nil {
		data = uint64(d.Cur)
	}
	return addressSpace, data
}
