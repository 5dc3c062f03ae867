package engine

import (
	"errors"
	"fmt"
)

// PageStore is a Backend whose pages of the KV cache can be read and written between calls of Forward, so that a conversation
// can go on in another process.
type PageStore interface {
	// PageLayout names what the bytes of a page depend on: pages can be exchanged between backends that name the same.
	PageLayout() string
	// PageBytes returns the size of a page, of all layers together.
	PageBytes() int
	// ReadPage copies a page to b, which has PageBytes bytes.
	ReadPage(page int32, b []byte)
	// WritePage overwrites a page that no sequence uses.
	WritePage(page int32, b []byte)
}

// ErrNoPages tells that a backend is no PageStore, or that the model has a state, which pages do not hold.
var ErrNoPages = errors.New("the device does not give out its cache")

// errBusy is SavePages' and LoadPages' error while sequences are computed.
var errBusy = errors.New("the cache is in use")

// SavePages calls save with every page that the cache holds of tokens, which are those of a sequence that has ended, and returns
// how many tokens these pages cover; the last page may be partly filled. A page is valid until save returns. A nil save only
// counts.
func (e *Engine) SavePages(tokens []int32, save func(page []byte) error) (covered int, err error) {
	store, ok := e.backend.(PageStore)
	if !ok || e.pool.recurrent() {
		return 0, ErrNoPages
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return 0, errBusy
	}
	var t table
	covered = e.pool.adopt(&t, tokens)
	defer e.pool.release(&t, tokens[:covered], nil)
	pages := t.pages
	if last, same := t.last.longest(tokens[covered:], false); same > 0 {
		covered += same
		pages = append(pages[:len(pages):len(pages)], last.page)
	}
	if save == nil {
		return covered, nil
	}
	b := make([]byte, store.PageBytes())
	for _, page := range pages {
		store.ReadPage(page, b)
		if err := save(b); err != nil {
			return 0, err
		}
	}
	return covered, nil
}

// LoadPages puts pages into the cache that SavePages gave out for tokens; load fills one after the other. As many are taken as
// the cache has room for; what is missing is computed when it is needed.
func (e *Engine) LoadPages(tokens []int32, load func(page []byte) error) error {
	store, ok := e.backend.(PageStore)
	if !ok || e.pool.recurrent() {
		return ErrNoPages
	}
	if err := e.checkTokens(tokens); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errBusy
	}
	var t table
	b := make([]byte, store.PageBytes())
	held := 0
	for held < len(tokens) {
		page, ok := e.pool.alloc()
		if !ok {
			break
		}
		t.pages = append(t.pages, page)
		if err := load(b); err != nil {
			for _, p := range t.pages {
				e.pool.unref(p)
			}
			return fmt.Errorf("page %d: %w", len(t.pages), err)
		}
		store.WritePage(page, b)
		held = min(held+PageTokens, len(tokens))
	}
	e.pool.release(&t, tokens[:held], nil)
	return nil
}
