//go:build !linux

package hub

// freeSpace is not known on other systems: a full disk ends in an error of the write.
func freeSpace(string) (int64, bool) { return 0, false }
