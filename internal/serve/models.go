package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// ErrNoModel tells that a request names a model that is not served.
var ErrNoModel = errors.New("no such model")

// ErrFull tells that as many requests wait as may.
var ErrFull = errors.New("the server is busy")

// ModelInfo is a model that can be loaded.
type ModelInfo struct {
	Name     string
	Size     int64 // bytes of its container
	Modified time.Time
}

// Loaded is a model in memory.
type Loaded struct {
	Engine   *engine.Engine
	Template string // the chat template's source
	Parallel int    // sequences that are computed together
	Close    func() error
}

// Library lists models and loads them.
type Library interface {
	List() ([]ModelInfo, error)
	// Find returns the full name of what a request calls name; an error wraps ErrNoModel if there is none.
	Find(name string) (string, error)
	Load(ctx context.Context, name string) (*Loaded, error)
}

// models keeps loaded models: at most max at once, and no longer than idle after their last use.
type models struct {
	library Library
	max     int
	idle    time.Duration // 0: for ever
	queue   int           // requests that may wait beside those that run
	log     *slog.Logger

	mu     sync.Mutex
	loaded []*entry
	freed  chan struct{} // closed and renewed when a model's last lease ends
	closed bool
}

// entry is a model that is loaded or on its way.
type entry struct {
	name   string
	ready  chan struct{} // closed when model or err is set
	model  *Loaded
	err    error
	leases int
	used   time.Time
	timer  *time.Timer
	*vocabulary
}

// lease is a request's hold on a model, which stays loaded until release.
type lease struct {
	*entry
	release func()
}

func newModels(lib Library, max int, idle time.Duration, queue int, log *slog.Logger) *models {
	return &models{library: lib, max: max, idle: idle, queue: queue, log: log, freed: make(chan struct{})}
}

// acquire returns the model called name, loading it if need be. It waits while the others that are loaded are in use.
func (m *models) acquire(ctx context.Context, name string) (*lease, error) {
	full, err := m.library.Find(name)
	if err != nil {
		return nil, err
	}
	for {
		l, wait, err := m.try(full)
		if err != nil {
			return nil, err
		}
		if l == nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			l.release()
			return nil, ctx.Err()
		}
		if l.err != nil {
			l.release()
			return nil, l.err
		}
		return l, nil
	}
}

// try takes a lease on the entry of name, making it if there is room. Without room it returns what to wait for.
func (m *models) try(name string) (*lease, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, nil, ErrFull
	}
	i := slices.IndexFunc(m.loaded, func(e *entry) bool { return e.name == name && e.err == nil })
	if i < 0 {
		if len(m.loaded) >= m.max && !m.evict() {
			return nil, m.freed, nil
		}
		e := &entry{name: name, ready: make(chan struct{})}
		m.loaded = append(m.loaded, e)
		i = len(m.loaded) - 1
		go m.load(e)
	}
	e := m.loaded[i]
	if e.model != nil && e.leases >= e.model.Parallel+m.queue {
		return nil, nil, ErrFull
	}
	e.leases++
	if e.timer != nil {
		e.timer.Stop()
	}
	var once sync.Once
	return &lease{e, func() { once.Do(func() { m.release(e) }) }}, nil, nil
}

func (m *models) release(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.leases--; e.leases > 0 {
		return
	}
	e.used = time.Now()
	close(m.freed)
	m.freed = make(chan struct{})
	if m.idle > 0 && e.model != nil {
		e.timer = time.AfterFunc(m.idle, func() { m.unloadIdle(e) })
	}
}

func (m *models) unloadIdle(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.leases == 0 && slices.Contains(m.loaded, e) {
		m.unload(e)
	}
}

// evict unloads the model that was not used for longest, if one is not in use.
func (m *models) evict() bool {
	var oldest *entry
	for _, e := range m.loaded {
		if e.leases == 0 && (oldest == nil || e.used.Before(oldest.used)) {
			oldest = e
		}
	}
	if oldest == nil {
		return false
	}
	m.unload(oldest)
	return true
}

func (m *models) unload(e *entry) {
	m.loaded = slices.DeleteFunc(m.loaded, func(x *entry) bool { return x == e })
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.model == nil {
		return
	}
	if err := e.model.Close(); err != nil {
		m.log.Error("unloading", "model", e.name, "error", err)
	}
	m.log.Info("unloaded", "model", e.name)
}

// load loads e. When that fails, models that are not in use make room, and it is tried once more.
func (m *models) load(e *entry) {
	start := time.Now()
	model, err := m.library.Load(context.Background(), e.name)
	if err != nil {
		m.mu.Lock()
		freed := m.evict()
		m.mu.Unlock()
		if freed {
			m.log.Warn("loading again with more memory", "model", e.name, "error", err)
			model, err = m.library.Load(context.Background(), e.name)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer close(e.ready)
	if err != nil {
		e.err = fmt.Errorf("loading %s: %w", e.name, err)
		m.loaded = slices.DeleteFunc(m.loaded, func(x *entry) bool { return x == e })
		m.log.Error("loading failed", "model", e.name, "error", err)
		return
	}
	e.vocabulary = newVocabulary(model.Engine.Tokenizer())
	e.model = model
	m.log.Info("loaded", "model", e.name, "device", model.Engine.Device(), "seconds", time.Since(start).Seconds())
}

// running returns the loaded models.
func (m *models) running() []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*entry
	for _, e := range m.loaded {
		if e.model != nil {
			out = append(out, e)
		}
	}
	return out
}

// closeWait is how long close waits for requests whose connections are gone.
const closeWait = 10 * time.Second

// close unloads everything, once it is not in use. Models in use after closeWait stay loaded: their memory may be read.
func (m *models) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	deadline := time.After(closeWait)
	for len(m.loaded) > 0 {
		if m.evict() {
			continue
		}
		freed := m.freed
		m.mu.Unlock()
		var late bool
		select {
		case <-freed:
		case <-deadline:
			late = true
		}
		m.mu.Lock()
		if late {
			return fmt.Errorf("a request did not end within %s", closeWait)
		}
	}
	return nil
}
