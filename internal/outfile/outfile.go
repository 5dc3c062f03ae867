// Package outfile writes output files that appear under their name only when they are complete: an error, a signal or a lost
// power supply leaves what was there before.
package outfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is an output file on its way. It is not safe for concurrent use.
type File struct {
	disk Disk
	f    Handle
	path string // as given to Create
	to   string // where the file will be: path after symbolic links
	part string // where it is meanwhile
}

// Create starts a file that will appear at path, with the mode of the file that it replaces, or what the umask leaves of 0666. If
// path is a symbolic link, the file that it names is replaced. What is not a regular file is refused.
func Create(disk Disk, path string) (*File, error) {
	to, err := follow(path)
	if err != nil {
		return nil, err
	}
	mode, replaced := os.FileMode(0o666), false
	switch st, err := os.Stat(to); {
	case err == nil && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is a directory, device or pipe, expected a file to write", path)
	case err == nil:
		mode, replaced = st.Mode().Perm(), true
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	w := &File{disk: disk, path: path, to: to}
	for n := 0; ; n++ {
		w.part = partName(to, os.Getpid(), n)
		w.f, err = disk.Create(w.part, mode)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) || n == maxParts {
			return nil, fmt.Errorf("cannot write beside %s: %w", path, err)
		}
	}
	if replaced { // the umask does not apply to it
		if err := w.f.Chmod(mode); err != nil {
			w.Abort()
			return nil, w.Wrap(err)
		}
	}
	return w, nil
}

// follow returns the file that symbolic links lead to, which need not exist.
func follow(path string) (string, error) {
	for range 40 { // as the kernel
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // not a link, or nothing yet
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = link
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

const (
	maxName  = 255 // bytes of a file name
	maxParts = 100
	partMark = ".part-"
)

// partName returns the name of an unfinished file: path, cut if it would be too long, the process and a number.
func partName(path string, pid, n int) string {
	dir, base := filepath.Split(path)
	suffix := partMark + strconv.Itoa(pid) + "-" + strconv.Itoa(n)
	if most := maxName - len(suffix); len(base) > most {
		base = base[:most]
		for !utf8.ValidString(base) && len(base) > most-utf8.UTFMax {
			base = base[:len(base)-1]
		}
	}
	return dir + base + suffix
}

// Stale returns the unfinished files of path of processes that have ended: a killed program, or a lost power supply.
func Stale(path string, running func(pid int) bool) []string {
	to, err := follow(path)
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(to))
	if err != nil {
		return nil
	}
	var stale []string
	for _, e := range entries {
		name := e.Name()
		i := strings.LastIndex(name, partMark)
		if i < 0 {
			continue
		}
		number, _, _ := strings.Cut(name[i+len(partMark):], "-")
		pid, err := strconv.Atoi(number)
		if err == nil && strings.HasPrefix(filepath.Base(to), name[:i]) && !running(pid) {
			stale = append(stale, filepath.Join(filepath.Dir(to), name))
		}
	}
	return stale
}

// Wrap adds the path to an error of what is written.
func (w *File) Wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("writing %s: %w", w.path, err)
}

// Write appends b.
func (w *File) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	return n, w.Wrap(err)
}

// WriteAt writes b at an offset.
func (w *File) WriteAt(b []byte, offset int64) (int, error) {
	n, err := w.f.WriteAt(b, offset)
	return n, w.Wrap(err)
}

// Commit makes the file durable and gives it its name. After an error there is no new file.
func (w *File) Commit() error {
	if w.f == nil {
		return w.Wrap(os.ErrClosed)
	}
	err := w.f.Sync()
	err = errors.Join(err, w.f.Close())
	w.f = nil
	if err == nil {
		err = w.disk.Rename(w.part, w.to)
	}
	if err != nil {
		_ = w.disk.Remove(w.part) // the first error is what counts
		return w.Wrap(err)
	}
	return w.Wrap(w.disk.SyncDir(filepath.Dir(w.to)))
}

// Abort removes the unfinished file. After Commit it does nothing.
func (w *File) Abort() {
	if w == nil || w.f == nil {
		return
	}
	_ = w.f.Close()
	_ = w.disk.Remove(w.part)
	w.f = nil
}

// Handle is an open file of a Disk.
type Handle interface {
	io.Writer
	io.WriterAt
	Chmod(os.FileMode) error
	Sync() error
	Close() error
}

// Disk is what output files are written to: OS, or in tests one whose calls fail.
type Disk interface {
	// Create creates a file that must not exist.
	Create(name string, mode os.FileMode) (Handle, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes renames in a directory durable.
	SyncDir(dir string) error
}

// OS is the operating system's files.
type OS struct{}

// Create implements Disk.
func (OS) Create(name string, mode os.FileMode) (Handle, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
}

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements Disk.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements Disk. Not all file systems can do it, and then there is nothing to do.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // may be written but not read
	}
	_ = d.Sync()
	return d.Close()
}

// WriteFile writes b to path.
func WriteFile(path string, b []byte) error {
	w, err := Create(OS{}, path)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Commit()
}
