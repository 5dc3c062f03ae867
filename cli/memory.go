package cli

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// memoryLine compares the plan with what the system says that the process takes, where it does: the most so far (with the file's
// mapped pages that were in memory), and now.
func memoryLine(m engine.MemoryPlan, status string) string {
	line := fmt.Sprintf("memory: planned %s (weights %s, cache %s, scratch %s)", bytesText(m.Total()), bytesText(m.Weights),
		bytesText(m.KV), bytesText(m.Scratch))
	kb := map[string]int64{}
	f, err := os.Open(status)
	if err != nil {
		return line
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
			kb[name] = n
		}
	}
	if kb["VmHWM"] == 0 {
		return line
	}
	return line + fmt.Sprintf("; resident: %s at most, now %s of the program and %s of files", bytesText(kb["VmHWM"]<<10),
		bytesText(kb["RssAnon"]<<10), bytesText(kb["RssFile"]<<10))
}

// ownStatus is where Linux tells about the process.
const ownStatus = "/proc/self/status"
