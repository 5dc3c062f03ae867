package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/session"
)

// resume goes on with the conversation that a file holds; there may be none yet.
func (c *conversation) resume(path string) error {
	f, err := session.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if own := c.model.file.Fingerprint(); f.Model != own {
		return fmt.Errorf("%s: is a conversation with another model (%s, this one is %s): use that model, or another file", path,
			f.Model, own)
	}
	if f.Raw != c.opt.raw {
		return fmt.Errorf("%s: was written with --raw or without it, and can only be continued in the same way", path)
	}
	if pages := engine.PagesFor(f.Covered); pages != f.Pages {
		return fmt.Errorf("%s: %d pages for %d tokens, expected %d (start a new conversation)", path, f.Pages, f.Covered, pages)
	}
	for _, t := range f.Tokens {
		if t < 0 || int(t) >= c.model.NVocab() {
			return fmt.Errorf("%s: token %d, the model has %d (start a new conversation)", path, t, c.model.NVocab())
		}
	}
	c.said, c.tokens = f.Messages, f.Tokens
	if len(c.said) > 0 && c.said[0].Role == "system" && c.opt.system == "" {
		c.opt.system = c.said[0].Content
	}
	return c.loadPages(f)
}

// loadPages takes the pages of the cache over, where they are of use to this device.
func (c *conversation) loadPages(f *session.File) error {
	if f.Pages == 0 {
		return nil
	}
	layout, bytes := c.pageLayout()
	if layout != f.Layout || bytes != f.PageBytes {
		c.p.notef("the saved cache is of another kind (%s): the conversation is computed again", f.Layout)
		return nil
	}
	return c.model.LoadPages(f.Tokens[:f.Covered], f.NextPage)
}

// pageLayout returns the form of the cache's pages; an empty one if the device keeps them to itself.
func (c *conversation) pageLayout() (layout string, bytes int) {
	if s, ok := c.model.backend.(engine.PageStore); ok {
		return s.PageLayout(), s.PageBytes()
	}
	return "", 0
}

// save writes the conversation to a file, with the cache if it is wanted and the device gives it out.
func (c *conversation) save(path string, withCache bool) error {
	talk := &session.Conversation{Model: c.model.file.Fingerprint(), Messages: c.said, Raw: c.opt.raw, Tokens: c.tokens}
	layout, bytes := c.pageLayout()
	if !withCache || layout == "" {
		return session.Save(path, talk, nil, nil)
	}
	covered, err := c.model.SavePages(c.tokens, nil)
	if err != nil {
		return err
	}
	cache := &session.Cache{Layout: layout, PageBytes: bytes, Covered: covered, Pages: engine.PagesFor(covered)}
	return session.Save(path, talk, cache, func(write func([]byte) error) error {
		_, err := c.model.SavePages(c.tokens, write)
		return err
	})
}
