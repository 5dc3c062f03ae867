package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"
)

// maxText bounds a prompt or an evaluation text.
const maxText = 1 << 28

func (p *program) readFile(path string) (string, error) {
	if path == "-" {
		return readText(p.In, "standard input")
	}
	// A named pipe without a writer must not hang; one with a writer (a shell's process substitution) is read as it comes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", checkInput(path)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if st.Mode()&os.ModeNamedPipe == 0 {
		if err := checkInput(path); err != nil {
			return "", err
		}
	}
	return readText(f, path)
}

// readText reads UTF-8 text without its last line end.
func readText(r io.Reader, name string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxText {
		return "", fmt.Errorf("%s: more than %s of text", name, bytesText(maxText))
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%s: is not UTF-8 text", name)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
