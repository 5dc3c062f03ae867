package cuda

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// image is a compiled form of the kernels: sm_NN.cubin or compute_NN.ptx, or one of these compressed, with .gz after its name.
type image struct {
	path string
	cc   int // compute capability × 10
	ptx  bool
}

var imageName = regexp.MustCompile(`^(?:sm_(\d+)\.cubin|compute_(\d+)\.ptx)(?:\.gz)?$`)

// listImages finds the images in folder kernels.
func listImages(files fs.ReadDirFS) ([]image, error) {
	entries, err := files.ReadDir("kernels")
	if err != nil {
		return nil, fmt.Errorf("embedded kernels: %w", err)
	}
	var all []image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		m := imageName.FindStringSubmatch(e.Name())
		if m == nil {
			return nil, fmt.Errorf("embedded kernels: %s is not named sm_NN.cubin or compute_NN.ptx (.gz)", e.Name())
		}
		cc, err := strconv.Atoi(m[1] + m[2]) // one of the two is empty
		if err != nil {
			return nil, fmt.Errorf("embedded kernels: %s: %w", e.Name(), err)
		}
		all = append(all, image{path: "kernels/" + e.Name(), cc: cc, ptx: m[2] != ""})
	}
	return all, nil
}

// mostImage bounds the bytes of an image; a compiler's are below a tenth of it.
const mostImage = 256 << 20

// read returns an image's bytes.
func (im image) read(files fs.FS) ([]byte, error) {
	data, err := fs.ReadFile(files, im.path)
	if err != nil || !strings.HasSuffix(im.path, ".gz") {
		return data, err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.path, err)
	}
	if data, err = io.ReadAll(io.LimitReader(z, mostImage+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", im.path, err)
	}
	if len(data) > mostImage {
		return nil, fmt.Errorf("%s: more than %d MiB", im.path, mostImage>>20)
	}
	return data, nil
}

// onTegra tells whether a compute capability (× 10) is that of NVIDIA's systems on a chip: Jetson boards.
func onTegra(cc int) bool {
	switch cc {
	case 53, 62, 72, 87, 101, 110:
		return true
	}
	return false
}

// candidates returns the images that a device may run, best first: cubins of the same major and the same or a lower minor compute
// capability, but none of a desktop GPU on a Jetson board or the reverse (CUDA Compiler Driver NVCC, "Binary Compatibility");
// then PTX of the same or a lower one, newest first.
func candidates(all []image, major, minor int) []image {
	device := major*10 + minor
	var c []image
	for _, im := range all {
		if im.cc <= device && (im.ptx || im.cc/10 == major && onTegra(im.cc) == onTegra(device)) {
			c = append(c, im)
		}
	}
	sort.SliceStable(c, func(i, j int) bool {
		if c[i].ptx != c[j].ptx {
			return !c[i].ptx
		}
		return c[i].cc > c[j].cc
	})
	return c
}
