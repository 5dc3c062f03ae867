package chat

import (
	"encoding/json"
	"regexp"
	"strings"
)

// callStream is how far the call that pending begins with was given out.
type callStream struct {
	open   bool   // name and ID were
	closed bool   // the arguments are complete, or broken
	sent   int    // bytes of pending
	ends   []byte // brackets that close those which are open in the arguments
	quoted bool   // sent ends within a string
	escape bool   // after a backslash
}

// The beginnings of calls up to the bracket that opens the arguments: a JSON object, alone or first in a list, and Mistral's
// later form.
var (
	objectHead = regexp.MustCompile(`^\s*(?:\[\s*)?\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{`)
	namedHead  = regexp.MustCompile(`^([^\[{\n]{1,256})(?:\[CALL_ID\]([^\[{\n]{0,256}))?\[ARGS\]\s*\{`)
)

// maxCallHead bounds the text before the arguments.
const maxCallHead = 4096

// streamCall gives out what is new of the call that pending begins with.
func (p *Parser) streamCall() {
	s := &p.stream
	if !s.open && !p.openCall() || s.closed {
		return
	}
	from := s.sent
	for s.sent < len(p.pending) && !s.closed && s.next(p.pending[s.sent]) {
		s.sent++
	}
	if text := p.pending[from:s.sent]; text != "" {
		p.emit(Delta{Arguments: text}, text)
	}
}

// next takes a byte of the arguments; false if it closes a bracket that is not open.
func (s *callStream) next(c byte) bool {
	switch {
	case s.escape:
		s.escape = false
	case s.quoted:
		s.escape, s.quoted = c == '\\', c != '"'
	case c == '"':
		s.quoted = true
	case c == '{' || c == '[':
		s.ends = append(s.ends, c+2) // ASCII has the closing bracket two places further
	case c == '}' || c == ']':
		last := len(s.ends) - 1
		if s.ends[last] != c {
			s.closed = true
			return false
		}
		s.ends = s.ends[:last]
		s.closed = last == 0
	}
	return true
}

// openCall gives out the name of the call, if all of it up to the arguments has come.
func (p *Parser) openCall() bool {
	if p.format.XML {
		return false
	}
	mark := ""
	for _, m := range append(p.callMarks(), fence) {
		if strings.HasPrefix(p.pending, m) {
			mark = m
		}
	}
	head := p.pending[len(mark):]
	head = head[:min(len(head), maxCallHead)]
	call, n := ToolCall{}, 0
	if m := objectHead.FindStringSubmatchIndex(head); m != nil {
		if json.Unmarshal([]byte(head[m[2]:m[3]]), &call.Name) != nil {
			return false
		}
		n = m[1]
	} else if m := namedHead.FindStringSubmatchIndex(head); m != nil && mark == "[TOOL_CALLS]" {
		if before, _, _ := strings.Cut(head, "[ARGS]"); !namesCall(strings.TrimLeftFunc(before, isSpace)) {
			return false
		}
		call.Name, n = strings.TrimSpace(head[m[2]:m[3]]), m[1]
		if m[4] >= 0 {
			call.ID = strings.TrimSpace(head[m[4]:m[5]])
		}
	}
	_, known := p.tools[call.Name]
	if call.Name == "" || !known && (mark == "" || mark == fence) {
		return false
	}
	if call.ID == "" {
		call.ID = newCallID()
	}
	p.stream.open, p.stream.sent = true, len(mark)+n-1
	p.emit(Delta{Call: &call}, p.space+p.pending[:p.stream.sent])
	p.space = ""
	return true
}
