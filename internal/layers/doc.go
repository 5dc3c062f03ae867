// Package layers holds the test of who may import whom (docs/architecture.md).
package layers
