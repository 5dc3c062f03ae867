package chat

import (
	"encoding/json"
	"strings"
)

// Delta is a part of an answer: one of its fields is set.
type Delta struct {
	Content   string
	Reasoning string
	Call      *ToolCall // a whole call; its arguments are valid JSON. Or the beginning of one, without arguments (StreamCalls)
	Arguments string    // more of the arguments of the last call

	raw string // what it stands for in the answer, marks and white space dropped around it included
}

// ParserOptions says what an answer can hold.
type ParserOptions struct {
	Tools     []json.RawMessage // in OpenAI's form; without any, nothing is a call
	Reasoning bool              // the prompt has begun a thinking block: see OpensReasoning
	// StreamCalls gives out a call's name and arguments as they come, where their order allows it. A call that turns out to be
	// broken or cut off has then been given out as far as it came; what is left of it is content.
	StreamCalls bool
}

// Parser splits the text of an answer into content, reasoning and calls as it comes. What cannot be read as a call stays
// content: nothing is lost. A Parser is for one answer.
type Parser struct {
	format    CallFormat
	tools     map[string]json.RawMessage
	thinks    [][2]string // marks of a thinking block
	pending   string      // text that is not settled yet
	skipped   string      // white space that was dropped, for raw
	space     string      // white space before what may be a call
	state     parserState
	end       string // of the thinking block
	inText    bool   // there has been content since the beginning or the last call
	calls     int
	afterMark bool // white space is dropped: a block has just begun or ended
	tried     int  // how much of pending did not complete a call
	final     bool // there is no more text
	streams   bool
	stream    callStream
	out       []Delta
}

type parserState uint8

const (
	inContent parserState = iota
	inReasoning
	inCall // pending begins with the mark of a call, or with JSON that may be one
)

// NewParser returns a parser of answers to prompts made by a template.
func NewParser(template string, o ParserOptions) *Parser {
	p := &Parser{format: FormatOf(template), tools: knownTools(o.Tools), streams: o.StreamCalls}
	for _, m := range [][2]string{{"<think>", "</think>"}, {"[THINK]", "[/THINK]"}} {
		if strings.Contains(template, m[0]) || strings.Contains(template, m[1]) {
			p.thinks = append(p.thinks, m)
		}
	}
	if o.Reasoning {
		p.state, p.end, p.afterMark = inReasoning, "</think>", true
		if len(p.thinks) > 0 {
			p.end = p.thinks[0][1]
		}
	}
	return p
}

// OpensReasoning reports whether a rendered prompt ends within a thinking block, so that the answer begins there.
func OpensReasoning(prompt string) bool {
	prompt = strings.TrimRightFunc(prompt, isSpace)
	return strings.HasSuffix(prompt, "<think>") || strings.HasSuffix(prompt, "[THINK]")
}

// Feed takes the next piece of the answer and returns what is settled.
func (p *Parser) Feed(text string) []Delta {
	p.pending += text
	p.out = nil
	for p.step() {
	}
	return p.out
}

// End returns what is left at the end of the answer.
func (p *Parser) End() []Delta {
	p.out, p.final = nil, true
	for p.step() {
	}
	return p.out
}

// emit adds a delta for the text raw.
func (p *Parser) emit(d Delta, raw string) {
	d.raw = p.skipped + raw
	p.skipped = ""
	p.out = append(p.out, d)
}

// step settles some of pending and reports whether it did.
func (p *Parser) step() bool {
	if p.afterMark && p.state != inCall {
		trimmed := strings.TrimLeftFunc(p.pending, isSpace)
		p.skipped += p.pending[:len(p.pending)-len(trimmed)]
		p.pending = trimmed
	}
	if p.pending == "" {
		return false
	}
	switch p.state {
	case inReasoning:
		return p.reasoning()
	case inCall:
		return p.call()
	}
	return p.content()
}

// reasoning settles text up to the end of the thinking block.
func (p *Parser) reasoning() bool {
	i := strings.Index(p.pending, p.end)
	if i < 0 {
		return p.plain([]string{p.end}, func(s string) Delta { return Delta{Reasoning: s} })
	}
	text := p.pending[:i]
	shown := strings.TrimRightFunc(text, isSpace)
	raw := p.pending[:i+len(p.end)]
	p.pending = p.pending[len(raw):]
	if shown != "" {
		p.emit(Delta{Reasoning: shown}, raw)
	} else {
		p.skipped += raw
	}
	p.state, p.afterMark = inContent, true
	return true
}

// plain settles pending as far as it can be neither the beginning of a mark nor white space before one.
func (p *Parser) plain(marks []string, delta func(string) Delta) bool {
	n := len(p.pending)
	if !p.final {
		for _, m := range marks {
			n = min(n, len(p.pending)-overlap(p.pending, m))
		}
		n = len(strings.TrimRightFunc(p.pending[:n], isSpace))
	}
	if n == 0 {
		return false
	}
	text := p.pending[:n]
	p.pending = p.pending[n:]
	p.afterMark = false
	p.emit(delta(text), text)
	return true
}

// overlap returns the length of the longest end of s that m begins with.
func overlap(s, m string) int {
	for n := min(len(s), len(m)-1); n > 0; n-- {
		if strings.HasSuffix(s, m[:n]) {
			return n
		}
	}
	return 0
}

// callMarks returns the texts that begin a call.
func (p *Parser) callMarks() []string {
	if len(p.tools) == 0 {
		return nil
	}
	marks := []string{"<|python_tag|>"}
	if m := strings.TrimRight(strings.TrimRight(p.format.Before, "\n"), "["); strings.HasPrefix(m, "[TOOL_CALLS") {
		marks[0] = "[TOOL_CALLS]"
	} else if m != "" {
		marks[0] = m
	}
	return marks
}

// content settles text up to the next thinking block or call.
func (p *Parser) content() bool {
	marks := p.callMarks()
	for _, t := range p.thinks {
		marks = append(marks, t[0])
	}
	if len(p.tools) > 0 && p.format.Before == "" && !p.inText {
		if moved, wait := p.mayBeJSON(); moved || wait {
			return moved
		}
	}
	first, mark := -1, ""
	for _, m := range marks {
		if i := strings.Index(p.pending, m); i >= 0 && (first < 0 || i < first) {
			first, mark = i, m
		}
	}
	if first < 0 {
		delta := func(s string) Delta {
			p.inText = true
			return Delta{Content: s}
		}
		return p.plain(marks, delta)
	}
	text := p.pending[:first]
	p.pending = p.pending[first:]
	shown := strings.TrimRightFunc(text, isSpace)
	if shown != "" {
		p.inText = true
		p.emit(Delta{Content: shown}, shown)
	}
	p.space = text[len(shown):]
	for _, t := range p.thinks {
		if mark == t[0] {
			p.skipped += p.space + mark
			p.space = ""
			p.pending = p.pending[len(mark):]
			p.state, p.end, p.afterMark = inReasoning, t[1], true
			return true
		}
	}
	p.state = inCall
	return true
}

// mayBeJSON moves on to a call if the answer begins with JSON, bare or in a fence of Markdown; wait: that cannot be told yet.
func (p *Parser) mayBeJSON() (moved, wait bool) {
	rest := strings.TrimLeftFunc(p.pending, isSpace)
	if p.calls > 0 {
		rest = strings.TrimLeft(rest, "; \n")
	}
	if !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, "[") && !strings.HasPrefix(rest, fence) {
		return false, !p.final && strings.HasPrefix(fence, rest)
	}
	p.space = p.pending[:len(p.pending)-len(rest)]
	p.pending = rest
	p.state = inCall
	return true, false
}

const fence = "```json"

// maxCallBytes bounds a call: what is longer is content.
const maxCallBytes = 1 << 20

// call settles the call that pending begins with; what is not one becomes content.
func (p *Parser) call() bool {
	if p.streams {
		p.streamCall()
	}
	if !p.final && p.tried > 0 && p.tried < maxCallBytes && !strings.ContainsAny(p.pending[p.tried:], "}]>`") {
		return false
	}
	n, calls, complete := p.readCall(p.pending)
	tooLong := len(p.pending) > maxCallBytes
	p.tried = 0
	switch {
	case complete && calls != nil:
		raw := p.space + p.pending[:n]
		if p.stream.open { // the first call was given out
			calls, raw = calls[1:], p.pending[p.stream.sent:n]
		}
		p.pending = p.pending[n:]
		if len(calls) == 0 {
			p.skipped += raw
			p.calls++
		}
		for i := range calls {
			if calls[i].ID == "" {
				calls[i].ID = newCallID()
			}
			p.emit(Delta{Call: &calls[i]}, raw)
			raw = ""
		}
		p.calls += len(calls)
		p.inText, p.afterMark = false, true
	case complete || p.final || tooLong:
		if !complete {
			n = len(p.pending)
		}
		text := p.pending[:max(n, p.stream.sent)]
		p.pending = p.pending[len(text):]
		p.inText, p.afterMark = true, false
		text = text[p.stream.sent:]
		if p.stream.open {
			p.calls++
		} else {
			text = p.space + text
		}
		if text != "" {
			p.emit(Delta{Content: text}, text)
		}
	default:
		p.tried = len(p.pending)
		return false
	}
	p.state, p.space, p.stream = inContent, "", callStream{}
	return true
}

// readCall reads the call that s begins with. complete is false if more text is needed. calls is nil if the first n bytes
// are not a call.
func (p *Parser) readCall(s string) (n int, calls []ToolCall, complete bool) {
	mark := ""
	for _, m := range append(p.callMarks(), fence) {
		if strings.HasPrefix(s, m) {
			mark = m
		}
	}
	body := strings.TrimLeftFunc(s[len(mark):], isSpace)
	start := len(s) - len(body)
	closing := strings.TrimLeft(strings.TrimLeft(p.format.After, "\n"), "]")
	if mark == fence {
		closing = "```"
	} else if mark == "" || mark == "<|python_tag|>" {
		closing = ""
	}
	if p.format.XML && mark != "" {
		i := strings.Index(body, closing)
		if i < 0 {
			return 0, nil, false
		}
		calls, ok := xmlCalls(body[:i], p.tools)
		if !ok {
			calls = nil
		}
		return start + i + len(closing), calls, true
	}
	if mark == "[TOOL_CALLS]" && body != "" && body[0] != '[' && body[0] != '{' {
		return p.readNamed(s, start)
	}
	length, done, bad := jsonEnd(body)
	if bad {
		return max(1, len(mark)), nil, true
	}
	if !done {
		return 0, nil, false
	}
	calls, ok := jsonCalls(body[:length])
	for _, c := range calls {
		_, known := p.tools[c.Name]
		ok = ok && (known || mark != "" && mark != fence)
	}
	if !ok {
		return start + length, nil, true
	}
	return p.closed(s, start+length, closing, calls)
}

// closed reads the mark after a call, which may be missing.
func (p *Parser) closed(s string, n int, closing string, calls []ToolCall) (int, []ToolCall, bool) {
	if closing == "" {
		return n, calls, true
	}
	rest := strings.TrimLeftFunc(s[n:], isSpace)
	if strings.HasPrefix(rest, closing) {
		return len(s) - len(rest) + len(closing), calls, true
	}
	return n, calls, p.final || !strings.HasPrefix(closing, rest)
}

// readNamed reads NAME[ARGS]{…}, also with [CALL_ID]ID before [ARGS], after [TOOL_CALLS].
func (p *Parser) readNamed(s string, start int) (n int, calls []ToolCall, complete bool) {
	head, body, found := strings.Cut(s[start:], "[ARGS]")
	if !found {
		head = head[:len(head)-overlap(head, "[ARGS]")]
	}
	if !namesCall(head) {
		return start, nil, true
	}
	if !found {
		return 0, nil, false
	}
	name, id, _ := strings.Cut(head, "[CALL_ID]")
	length, done, bad := jsonEnd(strings.TrimLeftFunc(body, isSpace))
	at := len(s) - len(strings.TrimLeftFunc(body, isSpace))
	if bad {
		return at, nil, true
	}
	if !done {
		return 0, nil, false
	}
	arguments := s[at : at+length]
	if !json.Valid([]byte(arguments)) || arguments[0] != '{' || strings.TrimSpace(name) == "" {
		return at + length, nil, true
	}
	return at + length, []ToolCall{{ID: strings.TrimSpace(id), Name: strings.TrimSpace(name), Arguments: arguments}}, true
}

// namesCall tells whether what stands before [ARGS] can name a call.
func namesCall(head string) bool { return len(head) <= 256 && !strings.ContainsAny(head, "\n{") }

// isSpace tells white space of ASCII. Other white space stays content: pieces of an answer may end within its bytes.
func isSpace(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }
