//go:build !race

// Package race tells whether the race detector is on, which allocates where the program does not.
package race

// Enabled is true under go test -race.
const Enabled = false
