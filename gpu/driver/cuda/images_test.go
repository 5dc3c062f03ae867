package cuda

import (
	"bytes"
	"compress/gzip"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCandidates(t *testing.T) {
	files := fstest.MapFS{}
	for _, n := range []string{".keep", "sm_53.cubin", "sm_80.cubin.gz", "sm_86.cubin", "sm_87.cubin", "sm_90.cubin",
		"compute_53.ptx", "compute_80.ptx"} {
		files["kernels/"+n] = &fstest.MapFile{}
	}
	all, err := listImages(files)
	require.NoError(t, err)
	names := func(major, minor int) (s []string) {
		for _, im := range candidates(all, major, minor) {
			s = append(s, im.path[len("kernels/"):])
		}
		return s
	}
	assert.Equal(t, []string{"sm_53.cubin", "compute_53.ptx"}, names(5, 3), "Jetson Nano")
	assert.Equal(t, []string{"sm_86.cubin", "sm_80.cubin.gz", "compute_80.ptx", "compute_53.ptx"}, names(8, 9),
		"a cubin runs on higher minor versions")
	assert.Equal(t, []string{"sm_87.cubin", "compute_80.ptx", "compute_53.ptx"}, names(8, 7), "Orin takes no cubin of a desktop GPU")
	assert.Equal(t, []string{"compute_53.ptx"}, names(5, 4), "nor a desktop GPU one of a Jetson board")
	assert.Equal(t, []string{"compute_80.ptx", "compute_53.ptx"}, names(10, 0), "newer than every cubin")
	assert.Empty(t, names(5, 0))
}

func TestListImagesRefusesStrangers(t *testing.T) {
	_, err := listImages(fstest.MapFS{"kernels/all.cubin": {}})
	assert.ErrorContains(t, err, "all.cubin")
}

func TestReadImage(t *testing.T) {
	data := bytes.Repeat([]byte("machine code"), 1000)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	whole := b.Bytes()
	for name, c := range map[string]struct {
		file []byte
		says string // what is wrong
	}{
		"sm_53.cubin":    {data, ""},
		"sm_53.cubin.gz": {whole, ""},
		"sm_62.cubin.gz": {whole[:len(whole)/2], "sm_62.cubin.gz: unexpected EOF"},
		"sm_72.cubin.gz": {data, "sm_72.cubin.gz: gzip: invalid header"},
	} {
		im := image{path: "kernels/" + name}
		got, err := im.read(fstest.MapFS{im.path: &fstest.MapFile{Data: c.file}})
		if c.says != "" {
			assert.ErrorContains(t, err, c.says)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, data, got, name)
	}
}
