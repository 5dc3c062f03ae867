//go:build !linux

package buffer

func largePages(n int) []byte { return make([]byte, n) }
