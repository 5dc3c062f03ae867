package cli

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// --lora changes the file as much as its scale says, and mistakes leave no file.
func TestCompressMergesAdapters(t *testing.T) {
	family, err := testmodel.ReadFamily("qwen2")
	require.NoError(t, err)
	dir := t.TempDir()
	in, err := family.WriteGGUF(dir)
	require.NoError(t, err)
	a, err := testmodel.ReadAdapter(family.Name)
	require.NoError(t, err)
	lora, err := a.Write(dir)
	require.NoError(t, err)
	files := map[[sha256.Size]byte][]string{}
	for _, option := range []string{"", lora, lora + "=1", lora + "=-0.5"} {
		out := filepath.Join(dir, "out.ellm")
		args := []string{"compress", in, "-o", out, "--scheme", "bf16"}
		if option != "" {
			args = append(args, "--lora", option)
		}
		mustRun(t, args...)
		b, err := os.ReadFile(out)
		require.NoError(t, err)
		files[sha256.Sum256(b)] = append(files[sha256.Sum256(b)], option)
	}
	require.Len(t, files, 3, "%v: a scale of 1 is that of none", files)
	for option, want := range map[string]string{lora + "=x": "expected a directory, or DIR=SCALE with a number",
		lora + "=NaN": "with a number", in: "adapter_config.json"} {
		o := ellm("compress", in, "-o", filepath.Join(dir, "no.ellm"), "--lora", option)
		require.NotZero(t, o.code)
		require.Contains(t, o.err, want)
		require.NoFileExists(t, filepath.Join(dir, "no.ellm"))
	}
	o := ellm("compress", in, "-o", filepath.Join(dir, "no.ellm"), "--lora", lora, "--lossless")
	require.Contains(t, o.err, "--lossless has nothing to keep")
}
