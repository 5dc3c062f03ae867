// Package bundle has the tests of the scripts that check and measure the program on a stranger's machine. They run here with
// stand-ins for the programs of the bundle, on a machine without a GPU.
package bundle

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// program is the stand-in for ellm-gpu: one device, and an answer to every command.
const program = `#!/bin/bash
case "$1 $2" in
"devices --json") echo '[{"device": "0", "available": true, "name": "Stand-in", "cc": "5.3"}]' ;;
devices*) echo '0  Stand-in' ;;
bench*) echo '[{"model_filename": "tiny.ellm", "plan": "fused", "n_gen": 8, "n_prompt": 0, "avg_ts": 10, "stddev_ts": 1}]' ;;
plan*) echo '[{"plan": "fused", "predicted": {"decode_ts": 12, "prefill_ts": 30, "described": "Nano"}}]' ;;
run*) echo text ;;
esac
`

const kernels = `#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in
  -rates) echo '{"rates": [{"name": "launch_us", "value": 12.5, "unit": "us"}]}' >"$2" ;;
  -json) echo '{"device": "x", "results": []}' >"$2" ;;
  esac
  shift
done
`

// bundle makes a folder as run.sh expects it. test is what gpu.test does.
func bundle(t *testing.T, test string) string {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: no python3; CI has it")
	}
	dir := t.TempDir()
	machine, err := exec.Command("uname", "-m").Output()
	require.NoError(t, err)
	arch := filepath.Join(dir, strings.TrimSpace(string(machine)))
	require.NoError(t, os.Mkdir(arch, 0o755))
	for name, text := range map[string]string{"ellm-gpu": program, "kernels": kernels, "gpu.test": "#!/bin/bash\n" + test,
		"cuda.test": "#!/bin/bash\necho '--- PASS: TestOpen (0.00s)'\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(arch, name), []byte(text), 0o755))
	}
	for _, name := range []string{"run.sh", "report.py"} {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "VERSION"), []byte("v1\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cublas.py"), []byte("import sys\nsys.exit('no cuBLAS')\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tiny-llama.gguf"), nil, 0o644))
	return dir
}

func start(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("bash", "run.sh")
	cmd.Dir = dir
	// Neither nvcc nor a sanitizer of this machine.
	cmd.Env = append(os.Environ(), append(env, "PATH="+tools(t))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// tools is a folder with what run.sh may find on a machine without a toolkit.
func tools(t *testing.T) string {
	dir := t.TempDir()
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(strings.TrimSpace(string(python)), filepath.Join(dir, "python3")))
	for _, name := range strings.Fields("bash uname awk grep sed sleep tail cat ls mkdir rm touch sync cmp dirname basename head") {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	return dir
}

type report struct {
	Version string
	Steps   []struct {
		Name, Result, Note string
		Tests              map[string]int
		Failed             []string
	}
	Measured []map[string]any
	Rates    map[string]any
}

func readReport(t *testing.T, dir string) (r report, results map[string]string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "results", "report.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	results = map[string]string{}
	for _, s := range r.Steps {
		results[s.Name] = s.Result
	}
	return r, results
}

func TestEverythingIsReported(t *testing.T) {
	dir := bundle(t, "echo '--- PASS: TestA (0.00s)'\n")
	out, err := start(t, dir).CombinedOutput()
	require.NoError(t, err, string(out))
	r, results := readReport(t, dir)
	for _, name := range []string{"driver", "rates", "kernels", "compress", "end-to-end", "bench-tiny", "products"} {
		assert.Equal(t, "passed", results[name], "%s: %s", name, out)
	}
	for _, name := range []string{"bench-model", "cublas", "memcheck", "racecheck", "synccheck", "initcheck", "native-kernels"} {
		assert.Equal(t, "skipped", results[name], name)
	}
	assert.Equal(t, "v1", r.Version)
	assert.Len(t, r.Measured, 2)
	md, err := os.ReadFile(filepath.Join(dir, "results", "report.md"))
	require.NoError(t, err)
	assert.Contains(t, string(md), "| launch_us | 12.5 | us |")
	assert.Contains(t, string(md), "1 passed, 0 failed")
}

// What fails, is killed or hangs costs its own result and no other.
func TestFailuresCostTheirOwnResultOnly(t *testing.T) {
	for test, want := range map[string]string{
		"echo '--- FAIL: TestB (0.00s)'; exit 1":  "",
		"kill -9 $$":                              "killed",
		"sleep 100":                               "ended after 3 s",
		"trap '' TERM; while :; do sleep 1; done": "ended after 3 s",
	} {
		t.Run(test, func(t *testing.T) {
			t.Parallel()
			dir := bundle(t, test+"\n")
			began := time.Now()
			out, err := start(t, dir, "LIMIT=3").CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(out))
			assert.Equal(t, 1, exit.ExitCode())
			assert.Less(t, time.Since(began), time.Minute)
			assert.Empty(t, processesIn(t, dir), "they go on after the bundle has ended")
			r, results := readReport(t, dir)
			assert.Equal(t, "failed", results["kernels"])
			assert.Equal(t, "passed", results["products"])
			for _, s := range r.Steps {
				if s.Name == "kernels" {
					assert.Contains(t, s.Note, want)
				}
			}
		})
	}
}

// processesIn returns the processes that work in a folder.
func processesIn(t *testing.T, dir string) (all []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir) {
			all = append(all, l)
		}
	}
	return all
}

// The machine stops in the middle: the report has what was done, and the next run goes on there.
func TestInterruptedRunGoesOn(t *testing.T) {
	dir := bundle(t, "echo run >>../runs; [ -e ../second ] || sleep 60\n")
	cmd := start(t, dir)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "runs"))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	_, results := readReport(t, dir)
	assert.Equal(t, "passed", results["rates"], "the report is there while a later step runs")
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
	_ = cmd.Wait()
	again := exec.Command("python3", "report.py", "results", "v1")
	again.Dir = dir
	out, err := again.CombinedOutput()
	require.NoError(t, err, string(out))
	_, results = readReport(t, dir)
	assert.Equal(t, "interrupted", results["kernels"])

	require.NoError(t, os.WriteFile(filepath.Join(dir, "second"), nil, 0o644))
	out, err = start(t, dir, "RESUME=1").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "rates: has a result")
	_, results = readReport(t, dir)
	assert.Equal(t, "passed", results["kernels"])
	assert.Equal(t, "passed", results["products"])
}

// JetPack 4.6 has CMake 3.10 and Python 3.6.
func TestOldToolsOfJetPack(t *testing.T) {
	newer := regexp.MustCompile(`cmake[^\n]* (-S|-B|--parallel|--preset|--install) |CMAKE\)[^\n]* (-S|-B) |--build [^\n]* ` +
		`(-j|--target [\w$]+ \w)`)
	for _, name := range []string{"run.sh", "make", "../../Makefile", "../../CMakeLists.txt", "../../.ci/run",
		"../../.ci/test-driver",
		"../../docs/jetson.md"} {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		for i, line := range strings.Split(string(b), "\n") {
			line = strings.ReplaceAll(line, "-- -j", "-- ") // the generator's option
			if strings.HasPrefix(line, "#") {
				continue
			}
			assert.NotRegexp(t, newer, line, "%s:%d", name, i+1)
		}
	}
	for _, name := range []string{"report.py", "../kernels/cublas.py"} {
		out, err := exec.Command("python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read(), feature_version=(3, 6))",
			name).CombinedOutput()
		assert.NoError(t, err, string(out))
	}
}

// CUDA 13's compiler does not know the Jetson Nano: the other images are made, and a warning says what is missing.
func TestCompilerWithoutOldGPUs(t *testing.T) {
	cmake, err := exec.LookPath("cmake")
	if err != nil {
		t.Skip("SKIPPED: no cmake; CI has it, since make emu needs it")
	}
	dir := t.TempDir()
	nvcc := filepath.Join(dir, "nvcc")
	require.NoError(t, os.WriteFile(nvcc, []byte(`#!/bin/bash
if [ "$1" = --help ]; then echo 'compute_75 compute_80 compute_90 sm_75 sm_80 sm_87 sm_90 sm_100'; exit; fi
while [ "$1" != -o ]; do case "$1" in *53) echo "Unsupported gpu architecture $1" >&2; exit 1;; esac; shift; done
printf '//\n.version 9.0\n.target sm_80\n' >"$2"
`), 0o755))
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	run := func(args ...string) string {
		cmd := exec.Command(cmake, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	out := run("-DELLM_NVCC="+nvcc, "-DELLM_OUTPUT="+dir, root)
	assert.Contains(t, out, "compute_53: not supported by")
	run("--build", ".", "--target", "kernels")
	names, err := filepath.Glob(filepath.Join(dir, "kernels", "*"))
	require.NoError(t, err)
	var got []string
	for _, n := range names {
		got = append(got, filepath.Base(n))
	}
	assert.ElementsMatch(t, []string{"compute_80.ptx", "sm_75.cubin", "sm_80.cubin", "sm_87.cubin", "sm_90.cubin"}, got)
	text, err := os.ReadFile(filepath.Join(dir, "kernels", "compute_80.ptx"))
	require.NoError(t, err)
	assert.Contains(t, string(text), ".version 7.0\n")
}
