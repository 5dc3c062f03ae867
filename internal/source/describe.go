package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxListed bounds how many entries of a directory are looked at, and how many are named.
const (
	maxListed = 1000
	maxNamed  = 5
)

// knownHeads are how files begin that people mistake for models.
var knownHeads = []struct{ head, what string }{
	{"\x89ELLM", "is an .ellm file, compressed already"},
	{"PK\x03\x04", "looks like a PyTorch checkpoint (a ZIP archive), which is not supported (save the model as safetensors)"},
	{"\x80\x02", "looks like a PyTorch checkpoint (pickle), which is not supported (save the model as safetensors)"},
	{"version https://git-lfs", "is a Git LFS pointer: the file itself was not downloaded (git lfs pull)"},
	{"ggml", "is a GGML file of before GGUF, which is not supported (obtain a GGUF file)"},
	{"lmgg", "is a GGML file of before GGUF, which is not supported (obtain a GGUF file)"},
	{"tjgg", "is a GGML file of before GGUF (GGJT), which is not supported (obtain a GGUF file)"},
	{"fmgg", "is a GGML file of before GGUF (GGMF), which is not supported (obtain a GGUF file)"},
	{"\x89HDF\r\n", "is an HDF5 file (Keras?), which is not supported"},
	{"\x1f\x8b", "is compressed with gzip: unpack it first"},
	{"\xfd7zXZ", "is compressed with xz: unpack it first"},
	{"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first"},
	{"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it first"},
	{"\x93NUMPY", "is a NumPy array, not a model"},
	{"\x7fELF", "is a program, not a model"},
	{"<!DOCTYPE", "is a web page (did the download fail?)"},
	{"<!doctype", "is a web page (did the download fail?)"},
	{"<html", "is a web page (did the download fail?)"},
	{"%PDF", "is a PDF file, not a model"},
}

// headBytes is how much of a file describeHead wants to see.
const headBytes = 64

// describeHead says what a file that is no model is, by its first bytes.
func describeHead(head []byte) string {
	for _, k := range knownHeads {
		if bytes.HasPrefix(head, []byte(k.head)) {
			return k.what
		}
	}
	if len(head) > 8 && bytes.HasPrefix(head[4:], []byte("TFL3")) {
		return "is a TensorFlow Lite model, which is not supported"
	}
	if len(head) > 9 && head[8] == '{' && head[6] == 0 && head[7] == 0 {
		return "looks like a safetensors file (name it *.safetensors)"
	}
	if utf8.Valid(bytes.TrimRight(head, "\x80\xbf\xc2\xe2")) && !bytes.ContainsRune(head, 0) {
		return fmt.Sprintf("is a text that begins with %q", head[:min(len(head), 24)])
	}
	return fmt.Sprintf("begins with %q, which is no kind of file known here", head[:min(len(head), 8)])
}

// describeDir says what a directory without config.json has.
func describeDir(dir string) string {
	f, err := os.Open(dir)
	if err != nil {
		return "is a directory that cannot be read: " + err.Error()
	}
	defer f.Close()
	entries, err := f.ReadDir(maxListed)
	if err != nil && !errors.Is(err, io.EOF) {
		return "is a directory that cannot be read: " + err.Error()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	has := map[string]bool{}
	var names []string
	var inside string // a directory below that is a model's
	for _, e := range entries {
		has[e.Name()], has[filepath.Ext(e.Name())] = true, true
		if len(names) < maxNamed {
			names = append(names, fmt.Sprintf("%.60q", e.Name()))
		}
		if e.IsDir() && inside == "" {
			if _, err := os.Stat(filepath.Join(dir, e.Name(), configName)); err == nil {
				inside = filepath.Join(dir, e.Name())
			}
		}
	}
	switch {
	case len(entries) == 0:
		return "is an empty directory"
	case has[adapterConfig]:
		return "is a LoRA adapter, not a model (name its base model, and this directory with --lora)"
	case has["model_index.json"]:
		return "is a model of the diffusers library, which makes images"
	case has["params.json"] && (has[".pth"] || has[".safetensors"]):
		return "is a model in its author's own layout (params.json; convert it to Hugging Face's, or obtain a GGUF file)"
	case has[".ellm"]:
		return "is a directory of .ellm files, compressed already"
	case has[".onnx"]:
		return "has an ONNX model, which is not supported"
	case has[".safetensors"]:
		return "has safetensors files, but no config.json beside them (download the whole repository)"
	case has[".bin"], has[".pth"], has[".pt"]:
		return "has PyTorch checkpoints, which are not supported (save the model as safetensors)"
	case inside != "":
		return "is a directory without config.json; did you mean " + inside + "?"
	}
	more := ""
	if len(entries) > len(names) {
		more = ", …"
	}
	return "is a directory without config.json (it has " + strings.Join(names, ", ") + more + ")"
}
