// Package devices holds descriptions of GPUs for predictions (internal/predict): one JSON file each, every number with its
// source.
package devices

import "embed"

//go:embed *.json
var files embed.FS

// Files returns the descriptions, NAME.json each.
func Files() embed.FS { return files }
