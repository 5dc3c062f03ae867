// Package buffer makes the memory of the CPU backend: slices whose bytes a plan counts before they are made, and arenas in large
// pages for what is read as a whole for every token.
package buffer

import "unsafe"

// RoundUp returns the smallest multiple of `to` that is not below n.
func RoundUp(n, to int) int { return (n + to - 1) / to * to }

// Reserve sets s to n zeros, or with dry set leaves it alone; it returns the bytes of n elements.
func Reserve[T any](s *[]T, n int, dry bool) int64 {
	if !dry {
		*s = make([]T, n)
	}
	var zero T
	return int64(n) * int64(unsafe.Sizeof(zero))
}
