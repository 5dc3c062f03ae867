package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// Keys of files that llama-gguf-split wrote. Parts count from 0 in the key and from 1 in the name.
const (
	keySplitNo      = "split.no"
	keySplitCount   = "split.count"
	keySplitTensors = "split.tensors.count" // of all parts together
)

func isSplit(key string) bool { return strings.HasPrefix(key, "split.") }

// maxParts bounds the parts of a model, all of which are open at once.
const maxParts = 512

var partName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.gguf$`)

// openParts opens the further parts of a file that was split, whose first part s.f must be.
func (s *ggufSource) openParts() error {
	count, err := s.f.IntOr(keySplitCount, 1)
	if err != nil || count == 1 {
		return err
	}
	if count < 1 || count > maxParts {
		return fmt.Errorf("%s is %d, expected 1 to %d", keySplitCount, count, maxParts)
	}
	no, err := s.f.Int(keySplitNo)
	if err != nil {
		return err
	}
	dir, base := filepath.Split(s.f.Path)
	m := partName.FindStringSubmatch(base)
	if m == nil || m[3] != fmt.Sprintf("%05d", count) {
		return fmt.Errorf("is part %d of %d by its metadata, but not named …-%05d-of-%05d.gguf, by which the other parts are found "+
			"(give the files their names again)", no+1, count, no+1, count)
	}
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i+1, m[3])) }
	if no != 0 {
		return fmt.Errorf("is part %d of %d: name the first one, %s", no+1, count, name(0))
	}
	if m[2] != "00001" {
		return fmt.Errorf("is the first part by its metadata, but part %s by its name (obtain the parts again)", m[2])
	}
	for i := 1; i < count; i++ {
		if err := s.openPart(name(i), i, count); err != nil {
			return fmt.Errorf("part %d of %d: %w", i+1, count, err)
		}
	}
	return nil
}

// openPart opens part number i, counted from 0.
func (s *ggufSource) openPart(path string, i, count int) error {
	f, err := gguf.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is missing (all parts must lie in one directory)", path)
	}
	if err != nil {
		return err
	}
	s.others = append(s.others, f)
	no, err := f.Int(keySplitNo)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n, err := f.Int(keySplitCount)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if no != i || n != count {
		return fmt.Errorf("%s: is part %d of %d by its metadata (obtain the parts again, all from one place)", path, no+1, n)
	}
	return nil
}

// files returns all parts.
func (s *ggufSource) files() []*gguf.File { return append([]*gguf.File{s.f}, s.others...) }

// storedTensors returns the tensors of all parts by name.
func (s *ggufSource) storedTensors() (map[string]ggufPlace, error) {
	byName, n := map[string]ggufPlace{}, 0
	for _, f := range s.files() {
		for i := range f.Tensors {
			t := &f.Tensors[i]
			if other, twice := byName[t.Name]; twice {
				return nil, fmt.Errorf("tensor %s is in %s and in %s", t.Name, filepath.Base(other.file.Path), filepath.Base(f.Path))
			}
			byName[t.Name] = ggufPlace{file: f, stored: t}
			n++
		}
	}
	if want, err := s.f.IntOr(keySplitTensors, n); err != nil || want != n {
		return nil, errors.Join(err, fmt.Errorf("the parts have %d tensors together, expected %d (%s)", n, want, keySplitTensors))
	}
	return byName, nil
}

// Close implements Model.
func (s *ggufSource) Close() error {
	var err error
	for _, f := range s.files() {
		err = errors.Join(err, f.Close())
	}
	return err
}
