// Package session reads and writes conversation files: messages, the tokens of a text, and the pages of the KV cache that hold
// them. A file belongs to one model, whose fingerprint it has. Files come from anywhere: a reader bounds what it takes from them
// and believes nothing before the checksum fits.
//
// A file is the magic number, the length of a JSON header (u32), the header, header.Tokens token ids (i32), header.Pages pages of
// header.PageBytes bytes, and the CRC-32C (u32) of everything before it. Numbers are little-endian.
package session

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

const (
	magic     = "\x89ELLMses"
	version   = 1
	maxHeader = 64 << 20
	maxTokens = 1 << 20
	maxPages  = 1 << 20
	maxPage   = 1 << 30 // bytes
	sumBytes  = 4
)

// Conversation is what a file says beside the cache.
type Conversation struct {
	Model    string         // fingerprint of the model's file
	Messages []chat.Message // of a chat, the system's first if it has one
	Raw      bool           // the tokens are a text without a chat template
	Tokens   []int32        // prompt and answer of the last turn, as the model had them
}

// Cache is the pages of the KV cache that hold the first tokens of a conversation.
type Cache struct {
	Layout    string // engine.PageStore's
	PageBytes int
	Covered   int // tokens
	Pages     int
}

// header is the JSON of a file.
type header struct {
	Version   int       `json:"version"`
	Model     string    `json:"model"`
	Raw       bool      `json:"raw,omitempty"`
	Messages  []message `json:"messages"`
	Tokens    int       `json:"tokens"`
	Layout    string    `json:"layout,omitempty"`
	PageBytes int       `json:"page_bytes,omitempty"`
	Covered   int       `json:"covered,omitempty"`
	Pages     int       `json:"pages,omitempty"`
}

// message is a chat.Message that keeps the reasoning beside the content.
type message struct {
	Role      string `json:"role"`
	Content   string `json:"content"`
	Reasoning string `json:"reasoning_content,omitempty"`
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Save writes a file in place of what is at path. pages is called if cache has pages, and gives every page to write.
func Save(path string, c *Conversation, cache *Cache, pages func(write func(page []byte) error) error) error {
	w, err := outfile.Create(outfile.OS{}, path)
	if err != nil {
		return err
	}
	defer w.Abort()
	sum := crc32.New(castagnoli())
	b := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<20)
	head, err := encodeHead(c, cache)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := b.Write(head); err != nil {
		return err
	}
	written := 0
	if cache != nil && cache.Pages > 0 {
		err := pages(func(page []byte) error {
			if written++; len(page) != cache.PageBytes || written > cache.Pages {
				return fmt.Errorf("%s: page %d has %d bytes, expected %d pages of %d", path, written, len(page), cache.Pages,
					cache.PageBytes)
			}
			_, err := b.Write(page)
			return err
		})
		if err != nil {
			return err
		}
		if written != cache.Pages {
			return fmt.Errorf("%s: %d pages, expected %d", path, written, cache.Pages)
		}
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32())); err != nil {
		return err
	}
	return w.Commit()
}

// encodeHead returns everything before the pages.
func encodeHead(c *Conversation, cache *Cache) ([]byte, error) {
	h := header{Version: version, Model: c.Model, Raw: c.Raw, Messages: []message{}, Tokens: len(c.Tokens)}
	for _, m := range c.Messages {
		h.Messages = append(h.Messages, message{m.Role, m.Content, m.Reasoning})
	}
	if cache != nil {
		h.Layout, h.PageBytes, h.Covered, h.Pages = cache.Layout, cache.PageBytes, cache.Covered, cache.Pages
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > maxHeader || len(c.Tokens) > maxTokens {
		return nil, fmt.Errorf("a conversation of %d bytes and %d tokens is too long to be saved (at most %d and %d)", len(text),
			len(c.Tokens), maxHeader, maxTokens)
	}
	b := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(text)))
	b = append(b, text...)
	for _, t := range c.Tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	return b, nil
}

// File is an open conversation file whose checksum fits.
type File struct {
	Conversation
	Cache
	f    *os.File
	path string
	from int64 // offset of the pages
	next int   // page
}

// Open reads a file but for its pages. The caller closes it.
func Open(path string) (*File, error) {
	f, err := infile.Open(path)
	if err != nil {
		return nil, err
	}
	s := &File{f: f, path: path}
	if err := s.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Close closes the file.
func (s *File) Close() error { return s.f.Close() }

func (s *File) load() error {
	st, err := s.f.Stat()
	if err != nil {
		return err
	}
	in := bufio.NewReader(io.NewSectionReader(s.f, 0, st.Size()))
	b := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(in, b); err != nil || string(b[:len(magic)]) != magic {
		return errors.New("is not a conversation that ellm-gpu has saved")
	}
	n := int64(binary.LittleEndian.Uint32(b[len(magic):]))
	if n > maxHeader || n > st.Size() {
		return fmt.Errorf("offset %d: a header of %d bytes in a file of %d (damaged: start a new conversation)", len(magic), n,
			st.Size())
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(in, text); err != nil {
		return truncated(st.Size())
	}
	h, err := decodeHeader(text)
	if err != nil {
		return err
	}
	s.from = int64(len(b)) + n + 4*int64(h.Tokens)
	if want := s.from + int64(h.Pages)*int64(h.PageBytes) + sumBytes; st.Size() != want {
		return fmt.Errorf("has %d bytes, expected %d (cut off or damaged: start a new conversation)", st.Size(), want)
	}
	ids := make([]byte, 4*h.Tokens)
	if _, err := io.ReadFull(in, ids); err != nil {
		return truncated(st.Size())
	}
	if err := s.checkSum(st.Size() - sumBytes); err != nil {
		return err
	}
	s.Conversation = Conversation{Model: h.Model, Raw: h.Raw, Tokens: make([]int32, h.Tokens)}
	for i := range s.Tokens {
		s.Tokens[i] = int32(binary.LittleEndian.Uint32(ids[4*i:]))
	}
	for _, m := range h.Messages {
		s.Messages = append(s.Messages, chat.Message{Role: m.Role, Content: m.Content, Reasoning: m.Reasoning})
	}
	s.Cache = Cache{Layout: h.Layout, PageBytes: h.PageBytes, Covered: h.Covered, Pages: h.Pages}
	return nil
}

func truncated(size int64) error {
	return fmt.Errorf("ends at offset %d (cut off: start a new conversation)", size)
}

func decodeHeader(text []byte) (*header, error) {
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("header: %w (damaged: start a new conversation)", err)
	}
	switch {
	case h.Version != version:
		return nil, fmt.Errorf("has version %d, expected %d (start a new conversation)", h.Version, version)
	case h.Tokens < 0 || h.Tokens > maxTokens || h.Pages < 0 || h.Pages > maxPages || h.PageBytes < 0 || h.PageBytes > maxPage ||
		h.Covered < 0 || h.Covered > h.Tokens:
		return nil, fmt.Errorf("header: %d tokens, %d of them in %d pages of %d bytes, which cannot be (damaged: start a new "+
			"conversation)", h.Tokens, h.Covered, h.Pages, h.PageBytes)
	}
	for i, m := range h.Messages {
		if m.Role != "system" && m.Role != "user" && m.Role != "assistant" {
			return nil, fmt.Errorf("header: message %d has role %q, expected system, user or assistant", i+1, m.Role)
		}
	}
	return &h, nil
}

// checkSum compares the checksum of the first n bytes with the one after them.
func (s *File) checkSum(n int64) error {
	sum := crc32.New(castagnoli())
	if _, err := io.Copy(sum, io.NewSectionReader(s.f, 0, n)); err != nil {
		return err
	}
	var b [sumBytes]byte
	if _, err := s.f.ReadAt(b[:], n); err != nil {
		return truncated(n)
	}
	if want := binary.LittleEndian.Uint32(b[:]); sum.Sum32() != want {
		return fmt.Errorf("checksum %08x at offset %d, expected %08x (damaged: start a new conversation)", want, n, sum.Sum32())
	}
	return nil
}

// NextPage reads the next page into b, which has PageBytes bytes.
func (s *File) NextPage(b []byte) error {
	if len(b) != s.PageBytes || s.next >= s.Pages {
		return fmt.Errorf("%s: page %d of %d with %d bytes, asked for %d", s.path, s.next+1, s.Pages, s.PageBytes, len(b))
	}
	if _, err := s.f.ReadAt(b, s.from+int64(s.next)*int64(s.PageBytes)); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	s.next++
	return nil
}
