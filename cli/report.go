package cli

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// benchReport is what bench --report writes: enough to compare measurements of different machines.
type benchReport struct {
	Build    string            `json:"build_commit"`
	System   string            `json:"system"` // operating system and processor architecture
	Board    string            `json:"board,omitempty"`
	JetPack  string            `json:"jetpack,omitempty"`
	Computed string            `json:"computed"` // what really computed
	Devices  []deviceJSON      `json:"devices"`
	Plan     engine.MemoryPlan `json:"plan"`
	Results  []benchResult     `json:"results"` // measured
}

// writeReport stores the results of bench at path.
func (p *program) writeReport(path string, m *loaded, results []benchResult) error {
	r := benchReport{Build: p.version, System: runtime.GOOS + "/" + runtime.GOARCH, Board: firstLine("/proc/device-tree/model"),
		JetPack:  firstLine("/etc/nv_tegra_release"),
		Computed: m.backend.Describe(), Devices: append(gpus(), cpuDevice()), Plan: m.Memory(), Results: results}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return outfile.WriteFile(path, append(b, '\n'))
}

// firstLine returns the first line of a small system file, or nothing.
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimRight(line, "\x00 \r")
}
