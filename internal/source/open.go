package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const inputKinds = "expected a .gguf file, or a directory with config.json, tokenizer.json and *.safetensors"

// Open opens a model file or directory: a GGUF file, a Hugging Face directory, or a single .safetensors file with
// config.json and tokenizer.json beside it. All tensors' names and shapes are checked against the configuration.
func Open(path string) (Model, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return openDir(path)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is a device or pipe, %s", path, inputKinds)
	}
	head, err := readHead(path)
	if err != nil {
		return nil, err
	}
	switch {
	case len(head) == 0:
		return nil, fmt.Errorf("%s: the file is empty, %s", path, inputKinds)
	case gguf.IsGGUF(head):
		return openGGUF(path)
	case strings.HasSuffix(path, ".safetensors"):
		return openHF(path, filepath.Dir(path), path)
	case filepath.Ext(path) == ".json":
		return nil, fmt.Errorf("%s: name the model's directory instead (%s)", path, filepath.Dir(path))
	}
	return nil, fmt.Errorf("%s: %s, %s", path, describeHead(head), inputKinds)
}

func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, headBytes)
	n, err := io.ReadFull(f, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}

func openDir(dir string) (Model, error) {
	_, err := os.Stat(filepath.Join(dir, configName))
	if err == nil {
		return openHF(dir, dir, "")
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// the pattern is well-formed unless dir has brackets
	if files, _ := filepath.Glob(filepath.Join(dir, "*.gguf")); len(files) > 0 {
		return nil, fmt.Errorf("%s: is a directory; name one of its GGUF files, such as %s", dir, files[0])
	}
	return nil, fmt.Errorf("%s: %s, %s", dir, describeDir(dir), inputKinds)
}

// checkTokenizer refuses a tokenizer whose ids exceed the model's vocabulary.
func checkTokenizer(t *tokenizer.Tokenizer, err error, path string, c *model.Config) (*tokenizer.Tokenizer, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t.NVocab() > c.NVocab {
		return nil, fmt.Errorf("%s: the tokenizer has %d tokens, the model's embedding only %d", path, t.NVocab(), c.NVocab)
	}
	return t, nil
}

func shortBuffer(have, want int) error {
	return fmt.Errorf("the destination holds %d values, expected %d", have, want)
}

func bits16(b []byte, dst []uint16) {
	for i := range len(b) / 2 {
		dst[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
}
