// Package compare holds the test of the comparison scripts.
package compare

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

type row struct {
	Program, Kind string
	Bytes         int64
	BitsPerWeight float64 `json:"bits_per_weight"`
	Texts         map[string]struct {
		Chunks     int
		KLD        float64
		KLD999     float64 `json:"kld_999"`
		SameTop    float64 `json:"same_top"`
		Perplexity float64
		Reference  float64 `json:"reference_perplexity"`
	}
}

// workbench has the program, the test model and a text in one directory.
type workbench struct {
	*testing.T
	dir, ellm, model, text string
}

func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	w := &workbench{T: t, dir: t.TempDir()}
	var err error
	w.model, err = testmodel.WriteTo(w.dir)
	require.NoError(t, err)
	w.text, w.ellm = filepath.Join(w.dir, "text.txt"), filepath.Join(w.dir, "ellm-gpu")
	require.NoError(t, os.WriteFile(w.text, []byte(testmodel.HeldOut()), 0o600))
	out, err := exec.Command("go", "build", "-o", w.ellm, "github.com/ellm-gpu/ellm-gpu/cli/ellm-gpu").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return w
}

// compare runs quality.sh and returns what it printed.
func (w *workbench) compare(options ...string) (string, error) {
	args := append([]string{"quality.sh", w.model, w.text, "--chunks", "1", "--work", filepath.Join(w.dir, "work"), "--out",
		w.dir}, options...)
	cmd := exec.Command("bash", args...)
	cmd.Env = append(os.Environ(), "ELLM="+w.ellm)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *workbench) rows() map[string]row {
	b, err := os.ReadFile(filepath.Join(w.dir, "quality_tiny-llama.json"))
	require.NoError(w, err)
	var data struct {
		Weights int64
		Rows    []row
	}
	require.NoError(w, json.Unmarshal(b, &data))
	require.EqualValues(w, 684928, data.Weights)
	rows := map[string]row{}
	for _, r := range data.Rows {
		rows[r.Program+" "+r.Kind] = r
	}
	return rows
}

func (w *workbench) checkPlot() {
	f, err := os.Open(filepath.Join(w.dir, "quality_tiny-llama.svg"))
	require.NoError(w, err)
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err = d.Token(); err != nil {
			require.ErrorIs(w, err, io.EOF)
			return
		}
	}
}

func TestOurRowsAlone(t *testing.T) {
	w := newWorkbench(t)
	options := []string{"--unseen", filepath.Join(w.dir, "other.txt"), "--unseen-chunks", "1", "--sizes", "4bpw 6bpw"}
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "other.txt"), []byte(testmodel.HeldOut()[10000:]), 0o600))
	out, err := w.compare(options...)
	require.NoError(t, err, out)
	rows := w.rows()
	require.Len(t, rows, 4)
	four, six := rows["ellm-gpu 4bpw"], rows["ellm-gpu 6bpw"]
	require.InDelta(t, 4, four.BitsPerWeight, 0.1)
	require.Less(t, four.Bytes, six.Bytes)
	for _, text := range []string{"text", "unseen"} {
		a, b := four.Texts[text], six.Texts[text]
		require.Equal(t, 1, a.Chunks)
		require.Positive(t, b.KLD)
		require.Greater(t, a.KLD, 4*b.KLD)
		require.Greater(t, a.KLD999, a.KLD)
		require.Greater(t, b.SameTop, a.SameTop)
		require.InEpsilon(t, a.Reference, b.Perplexity, 0.05)
	}
	require.NotEqual(t, four.Texts["text"].KLD, four.Texts["unseen"].KLD)
	table, err := os.ReadFile(filepath.Join(w.dir, "quality_tiny-llama.md"))
	require.NoError(t, err)
	require.Contains(t, string(table), "| **ellm-gpu** 4 bits |")
	w.checkPlot()

	// What is there is not measured again; with another size only that is.
	out, err = w.compare(options...)
	require.NoError(t, err, out)
	require.NotContains(t, out, "KLD")
	require.Equal(t, rows, w.rows())
	options[len(options)-1] = "4bpw 5bpw"
	out, err = w.compare(options...)
	require.NoError(t, err, out)
	require.Equal(t, 1, strings.Count(out, "KLD"))
	require.Len(t, w.rows(), 5)

	// Other texts make another table.
	out, err = w.compare("--sizes", "4bpw")
	require.Error(t, err)
	require.Contains(t, out, "is of another model or texts")
}

// fakePeer makes programs that behave like llama.cpp's as far as the scripts can see: llama-quantize writes a file of a size that
// depends on the type, llama-perplexity prints the same divergence for all.
func (w *workbench) fakePeer() string {
	dir := filepath.Join(w.dir, "peer")
	require.NoError(w, os.Mkdir(dir, 0o700))
	const sizes = `case ${@: -2:1} in Q8_0) n=720000;; Q6_K) n=560000;; Q4_K_M) n=420000;; ` +
		`IQ4_XS) n=400000;; Q3_K_M) n=360000;; *) n=300000;; esac`
	for name, script := range map[string]string{
		"llama-quantize": sizes + "\nhead -c $n /dev/zero > ${@: -3:1}",
		"llama-imatrix":  "touch ${@: -1}",
		"llama-perplexity": "cat <<'END'\nMean PPL(Q)                   :  15.548946 ±   0.949164\nMean PPL(base)                :  " +
			"15.190327 ±   0.925061\nMean    KLD:   0.500000 ±   0.000537\n99.9%   KLD:   0.251936\nSame top p: 90.941 ± 0.569 %\nEND",
	} {
		require.NoError(w, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+script+"\n"), 0o700))
	}
	return dir
}

func TestNextToPeer(t *testing.T) {
	w := newWorkbench(t)
	out, err := w.compare("--sizes", "4bpw") // leaves the original's predictions, which a real llama-perplexity would make
	require.NoError(t, err, out)
	require.NoError(t, os.Remove(filepath.Join(w.dir, "quality_tiny-llama.json")))
	calibration := filepath.Join(w.dir, "calibration.txt")
	require.NoError(t, os.WriteFile(calibration, []byte(testmodel.HeldOut()[8000:]), 0o600))
	out, err = w.compare("--peer", w.fakePeer(), "--types", "Q3_K_M Q4_K_M", "--sizes", "Q4_K_M 0.85*Q4_K_M", "--calibrate",
		calibration, "--calibrate-chunks", "2", "--own-tokens", "512")
	require.NoError(t, err, out)
	b, err := os.ReadFile(filepath.Join(w.dir, "quality_tiny-llama.json"))
	require.NoError(t, err)
	var data struct {
		Rows []struct {
			row
			Calibration *string
			Command     string
		}
	}
	require.NoError(t, json.Unmarshal(b, &data))
	require.Len(t, data.Rows, 2*2+3*2+2)
	for _, r := range data.Rows {
		require.NotContains(t, r.Command, w.dir)
		if r.Calibration != nil {
			// The first of our files of either kind saves the calibration for the others.
			first, next := " --calibrate calibration.txt --calibrate-tokens 1024 --save-calibration calibration.txt.1024.cal",
				" --calibration calibration.txt.1024.cal"
			switch own := "its own text, 512 tokens"; {
			case r.Program == "llama.cpp":
				first, next = "--imatrix imatrix.2.gguf", "--imatrix imatrix.2.gguf"
			case *r.Calibration == own:
				first, next = " --calibrate-self 512 --save-calibration itself.512.cal", " --calibration itself.512.cal"
			default:
				require.Equal(t, "calibration.txt, 1024 tokens", *r.Calibration)
			}
			require.Contains(t, r.Command, map[bool]string{true: first, false: next}[r.Kind == "Q4_K_M"])
		}
		size := map[string]float64{"Q3_K_M": 360000, "Q4_K_M": 420000, "0.85*Q4_K_M": 357000}[r.Kind]
		switch {
		case r.Program == "llama.cpp":
			require.EqualValues(t, size, r.Bytes)
			require.Equal(t, 0.5, r.Texts["text"].KLD)
			require.Equal(t, 90.941, r.Texts["text"].SameTop)
		case size > 0:
			require.LessOrEqual(t, float64(r.Bytes), size)
			require.InEpsilon(t, size, r.Bytes, 0.02)
		}
	}
	table, err := os.ReadFile(filepath.Join(w.dir, "quality_tiny-llama.md"))
	require.NoError(t, err)
	require.Regexp(t,
		`\| \*\*ellm-gpu\*\* size of Q4_K_M, calibrated with calibration.txt, 1024 tokens \|.* × Q4_K_M \|`, string(table))
	// The tiny model's divergence is far below what the fake prints, so the bars are met; no unseen text was given.
	for heading, size := range map[string]string{"### Without data": "0.85 × Q4_K_M, its own text", "### Calibrated": "Q4_K_M"} {
		_, rest, ok := strings.Cut(string(table), heading+"\n")
		require.True(t, ok, heading)
		require.Regexp(t, `\n\| `+size+
			` \| 0\.4 \| 0\.50000 \| 0\.4 \| 0\.\d{5} \| 0\.\d{3} \| [01]\.\d\d \| met \|  \|  \|  \|  \|\n`, rest)
	}
	w.checkPlot()
}
