// Package store keeps models by name in one folder, for all programs of a user: a container per model and a manifest beside it.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	containerSuffix = ".ellm"
	manifestSuffix  = ".json"
	maxManifest     = 1 << 20
)

// A Store is a folder of models. Several processes may use it at once.
type Store struct{ dir string }

// Manifest tells where a model came from and how it was made.
type Manifest struct {
	Name     string    `json:"name"`             // ORG/NAME:TAG, or NAME:TAG
	Source   string    `json:"source,omitempty"` // of a hub, with the revision that was asked for
	Commit   string    `json:"commit,omitempty"`
	Files    []string  `json:"files,omitempty"`
	Options  string    `json:"options,omitempty"` // of compress
	Size     int64     `json:"size"`              // bytes of the container
	Modified time.Time `json:"modified"`
}

// Model is a model of the store.
type Model struct {
	Manifest
	Path string // of the container
}

// Home returns the store's folder: $ELLM_GPU_HOME, or .ellm-gpu in the user's home.
func Home(getenv func(string) string) (string, error) {
	if dir := getenv("ELLM_GPU_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no folder for models: %w; set ELLM_GPU_HOME", err)
	}
	return filepath.Join(home, ".ellm-gpu"), nil
}

// Open returns the store in dir, which is made when something is put into it.
func Open(dir string) *Store { return &Store{dir} }

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

// Downloads returns the folder for files of a repository on their way in.
func (s *Store) Downloads(repo, commit string) string {
	return filepath.Join(s.dir, "downloads", filepath.FromSlash(repo), commit)
}

var (
	namePart = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	tagPart  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// CheckName reports what is wrong with the name of a model.
func CheckName(name string) error {
	if _, err := parse(name); err != nil {
		return err
	}
	return nil
}

type parsed struct {
	parts []string // [org] name
	tag   string   // may be empty
}

func parse(name string) (parsed, error) {
	repo, tag, tagged := strings.Cut(name, ":")
	p := parsed{strings.Split(repo, "/"), tag}
	ok := len(p.parts) <= 2 && (!tagged || tagPart.MatchString(tag)) && !strings.Contains(name, "..")
	for _, part := range p.parts {
		ok = ok && namePart.MatchString(part)
	}
	if !ok {
		return p, fmt.Errorf("%q is not a model's name: expected NAME, NAME:TAG or ORG/NAME:TAG of letters, digits, dots "+
			"and dashes", name)
	}
	return p, nil
}

// path returns where a full name's container lies. parse allows no name that leads out of the folder.
func (s *Store) path(p parsed) string {
	return filepath.Join(append([]string{s.dir, "models"}, append(slices.Clone(p.parts), p.tag+containerSuffix)...)...)
}

// List returns all models, ordered by name. Damaged manifests are left out of it and reported in the error beside the rest.
func (s *Store) List() ([]Model, error) {
	var out []Model
	var damaged []error
	err := filepath.WalkDir(filepath.Join(s.dir, "models"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, containerSuffix) || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		m, err := s.read(path)
		if err != nil {
			damaged = append(damaged, err)
			return nil
		}
		out = append(out, m)
		return nil
	})
	slices.SortFunc(out, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return out, errors.Join(append(damaged, err)...)
}

func (s *Store) read(container string) (Model, error) {
	m := Model{Path: container}
	name := strings.TrimSuffix(container, containerSuffix) + manifestSuffix
	f, err := os.Open(name)
	if err != nil {
		return m, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&m.Manifest); err != nil {
		return m, fmt.Errorf("%s: not a manifest: %w; remove the model with rm, or pull it again", name, err)
	}
	// The name follows from the place, whatever the manifest says.
	rel, err := filepath.Rel(filepath.Join(s.dir, "models"), strings.TrimSuffix(container, containerSuffix))
	if err != nil {
		return m, err
	}
	dir, tag := filepath.Split(rel)
	m.Name = strings.TrimSuffix(filepath.ToSlash(dir), "/") + ":" + tag
	return m, nil
}

// ErrNotFound tells that the store has no such model.
var ErrNotFound = errors.New("no such model in the store")

// Find returns the model of a name: in full, without the tag, or without the organization, where that names one only.
func (s *Store) Find(name string) (Model, error) {
	want, err := parse(name)
	if err != nil {
		return Model{}, err
	}
	all, err := s.List()
	var found []Model
	for _, m := range all {
		have, perr := parse(m.Name)
		if perr != nil || want.tag != "" && !strings.EqualFold(want.tag, have.tag) {
			continue
		}
		n, h := len(want.parts), len(have.parts)
		if n <= h && equalFold(want.parts, have.parts[h-n:]) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		if err != nil {
			return Model{}, err
		}
		return Model{}, fmt.Errorf("%q: %w %s", name, ErrNotFound, s.dir)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, m := range found {
		names = append(names, m.Name)
	}
	return Model{}, fmt.Errorf("%q names several models of the store: %s", name, strings.Join(names, ", "))
}

func equalFold(a, b []string) bool {
	return slices.EqualFunc(a, b, strings.EqualFold)
}

// Add makes a model under a full name (with tag): build writes the container to the path it is given, on the store's disk. The
// model appears when build has succeeded, and replaces one of that name. Other processes that add the same name wait.
func (s *Store) Add(ctx context.Context, m Manifest, build func(path string) error) (Model, error) {
	p, err := parse(m.Name)
	if err != nil {
		return Model{}, err
	}
	if p.tag == "" {
		return Model{}, fmt.Errorf("%q has no tag", m.Name)
	}
	path := s.path(p)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return Model{}, err
	}
	unlock, err := s.Lock(ctx, m.Name)
	if err != nil {
		return Model{}, err
	}
	defer unlock()
	tmp := filepath.Join(filepath.Dir(path), "."+p.tag+".new")
	defer os.Remove(tmp)
	if err := build(tmp); err != nil {
		return Model{}, err
	}
	info, err := os.Stat(tmp)
	if err != nil {
		return Model{}, err
	}
	m.Size, m.Modified = info.Size(), time.Now().UTC().Truncate(time.Second)
	return s.publish(tmp, path, m)
}

// publish moves a container and its manifest to their names. The container goes last: List goes by it.
func (s *Store) publish(tmp, path string, m Manifest) (Model, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Model{}, err
	}
	manifest := strings.TrimSuffix(path, containerSuffix) + manifestSuffix
	if err := writeSynced(manifest+".new", append(text, '\n')); err != nil {
		return Model{}, errors.Join(err, os.Remove(manifest+".new"))
	}
	if err := os.Rename(manifest+".new", manifest); err != nil {
		return Model{}, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return Model{}, err
	}
	return Model{m, path}, nil
}

func writeSynced(name string, text []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// Lock keeps other processes from changing the model of a name until unlock is called. It waits for them, or for ctx.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	dir := filepath.Join(s.dir, "locks")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(name)))
	if _, err := l.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("waiting for another program that changes %s: %w", name, err)
	}
	return func() { _ = l.Unlock() }, nil // a lock ends with the process in any case
}

// Remove deletes a model, and the folders that are empty then. A program that runs it goes on.
func (s *Store) Remove(ctx context.Context, name string) (Model, error) {
	m, err := s.Find(name)
	if err != nil {
		return m, err
	}
	unlock, err := s.Lock(ctx, m.Name)
	if err != nil {
		return m, err
	}
	defer unlock()
	if err := os.Remove(m.Path); err != nil {
		return m, err
	}
	err = os.Remove(strings.TrimSuffix(m.Path, containerSuffix) + manifestSuffix)
	for dir := filepath.Dir(m.Path); dir != filepath.Join(s.dir, "models") && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return m, err
}

// Copy gives a model a second name. The bytes are shared where the disk allows it.
func (s *Store) Copy(ctx context.Context, from, to string) (Model, error) {
	m, err := s.Find(from)
	if err != nil {
		return m, err
	}
	p, err := parse(to)
	if err != nil {
		return m, err
	}
	if p.tag == "" {
		have, err := parse(m.Name)
		if err != nil {
			return m, err
		}
		to += ":" + have.tag
	}
	n := m.Manifest
	n.Name = to
	return s.Add(ctx, n, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if os.Link(m.Path, path) == nil {
			return nil
		}
		return copyFile(m.Path, path)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
