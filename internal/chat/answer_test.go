package chat

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var testTools = []json.RawMessage{
	json.RawMessage(`{"type":"function","function":{"name":"weather","parameters":{"type":"object",` +
		`"properties":{"place":{"type":"string"},"days":{"type":"integer"}}}}}`),
	json.RawMessage(`{"type":"function","function":{"name":"now","parameters":{}}}`),
}

func templateFile(t testing.TB, name string) string {
	b, err := os.ReadFile("testdata/templates/" + name)
	require.NoError(t, err)
	return string(b)
}

// parsed is a whole answer: content, reasoning, and calls as name(arguments).
func parsed(p *Parser, pieces ...string) (content, reasoning string, calls []string, raw string) {
	var all []Delta
	for _, s := range pieces {
		all = append(all, p.Feed(s)...)
	}
	for _, d := range append(all, p.End()...) {
		content += d.Content
		reasoning += d.Reasoning
		if d.Call != nil {
			calls = append(calls, d.Call.Name+d.Call.Arguments)
		}
		if d.Arguments != "" {
			calls[len(calls)-1] += d.Arguments
		}
		raw += d.raw
	}
	return content, reasoning, calls, raw + p.skipped
}

func TestAnswersOfEveryFamily(t *testing.T) {
	const llama, none = "llama31.jinja", "gemma3-parts.jinja"
	weather := `weather{"place": "Bern"}`
	for _, c := range []struct {
		template, answer, content, reasoning string
		calls                                []string
	}{
		{"qwen25-tools.jinja", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Bern\"}}\n</tool_call>", "", "",
			[]string{weather}},
		{"qwen25-tools.jinja", "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": " +
			"\"Bern\"}}\n</tool_call>\n<tool_call>\n" +
			"{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "I look.", "", []string{weather, "now{}"}},
		{"qwen25-tools.jinja", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": " +
			"\"</tool_call>\"}}\n</tool_call> ok", "ok", "",
			[]string{`weather{"place": "</tool_call>"}`}},
		{"qwen25-tools.jinja", "<tool_call>\n{\"name\": \"weather\", \"argum", "<tool_call>\n{\"name\": \"weather\", \"argum", "", nil},
		{"qwen25-tools.jinja", "a <tool_call> tag and {json}", "a <tool_call> tag and {json}", "", nil},
		{"qwen3.jinja", "<think>\nhm\n</think>\n\nYes <b>", "Yes <b>", "hm", nil},
		{"qwen3.jinja", "<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "", "hm",
			[]string{"now{}"}},
		{"qwen3.jinja", "<think>never ends", "", "never ends", nil},
		{"smollm3.jinja", "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>", "", "", []string{"now{}"}},
		{"qwen35-xml.jinja", "<tool_call>\n<function=weather>\n" +
			"<parameter=place>\n12\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
			"", "", []string{`weather{"place": "12", "days": 2}`}},
		{llama, `{"name": "weather", "parameters": {"place": "Bern"}}`, "", "", []string{weather}},
		{llama, `<|python_tag|>{"name": "weather", "parameters": {"place": "Bern"}}`, "", "", []string{weather}},
		{llama, `{"name": "weather", "parameters": {"place": "Bern"}}; {"name": "now", "parameters": {}}`, "", "",
			[]string{weather, "now{}"}},
		{llama, `{"name": "nobody", "parameters": {}}`, `{"name": "nobody", "parameters": {}}`, "", nil},
		{llama, `Here: {"name": "now", "parameters": {}}`, `Here: {"name": "now", "parameters": {}}`, "", nil},
		{"mistral-tools.jinja", `[TOOL_CALLS] [{"name": "weather", "arguments": {"place": "Bern"}, "id": "abcdefghi"}, {"name": ` +
			`"now", "arguments": {}}]`,
			"", "", []string{weather, "now{}"}},
		{"mistral-tools.jinja", `[TOOL_CALLS]weather[ARGS]{"place": "Bern"}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}`, "", "",
			[]string{weather, "now{}"}},
		{"phi4mini.jinja", `<|tool_call|>[{"name": "weather", "arguments": {"place": "Bern"}}]<|/tool_call|>`, "", "",
			[]string{weather}},
		{"granite.jinja", `<|tool_call|>[{"name": "weather", "arguments": {"place": "Bern"}}]`, "", "", []string{weather}},
		{none, "```json\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Bern\"}}\n```", "", "", []string{weather}},
		{none, "```json\n{\"a\": 1}\n```\nso", "```json\n{\"a\": 1}\n```\nso", "", nil},
		{none, `{"function": {"name": "weather", "arguments": "{\"place\": \"Bern\"}"}, "type": "function"}`, "", "",
			[]string{`weather{"place": "Bern"}`}},
		{none, " plain\n\ntext \n", " plain\n\ntext \n", "", nil},
		{"r1-distill.jinja", "<think>\nhm</think>\nso", "so", "hm", nil},
	} {
		template := templateFile(t, c.template)
		check := func(pieces ...string) {
			content, reasoning, calls, raw := parsed(NewParser(template, ParserOptions{Tools: testTools}), pieces...)
			require.Equal(t, c.content, content, "%s: %q", c.template, c.answer)
			require.Equal(t, c.reasoning, reasoning, "%s: %q", c.template, c.answer)
			require.Equal(t, c.calls, calls, "%s: %q", c.template, c.answer)
			require.Equal(t, c.answer, raw)
		}
		check(c.answer)
		check(strings.Split(c.answer, "")...)
		content, reasoning, calls, raw := parsed(NewParser(template, ParserOptions{Tools: testTools, StreamCalls: true}),
			strings.Split(c.answer, "")...)
		require.Equal(t, []any{c.content, c.reasoning, c.calls, c.answer}, []any{content, reasoning, calls, raw}, "streamed")
		content, _, calls, _ = parsed(NewParser(template, ParserOptions{}), c.answer)
		require.Empty(t, calls, "without tools there are no calls")
		if c.reasoning == "" {
			require.Equal(t, c.answer, content)
		}
	}
}

func TestPromptThatOpensAThinkingBlock(t *testing.T) {
	require.True(t, OpensReasoning("<|Assistant|><think>\n"))
	require.False(t, OpensReasoning("<think>\n\n</think>\n\n"))
	p := NewParser(templateFile(t, "r1-distill.jinja"), ParserOptions{Reasoning: true})
	content, reasoning, _, _ := parsed(p, "\nhm, ", "1 < 2 </th", "ink>\n\nYes.")
	require.Equal(t, "Yes.", content)
	require.Equal(t, "hm, 1 < 2", reasoning)
}

func TestCallsCarryIDs(t *testing.T) {
	p := NewParser(templateFile(t, "mistral-tools.jinja"), ParserOptions{Tools: testTools})
	deltas := append(p.Feed(`[TOOL_CALLS][{"name": "now", "id": "abcdefghi"}, {"name": "now"}]`), p.End()...)
	require.Len(t, deltas, 2)
	require.Equal(t, "abcdefghi", deltas[0].Call.ID)
	require.Len(t, deltas[1].Call.ID, 9)
	require.NotEqual(t, deltas[0].Call.ID, deltas[1].Call.ID)
}

func TestFormatsMatchWhatIsParsed(t *testing.T) {
	for _, name := range []string{"qwen25-tools.jinja", "qwen3.jinja", "smollm3.jinja", "llama31.jinja", "mistral-tools.jinja",
		"phi4mini.jinja", "granite.jinja", "hermes.jinja", "gemma3-parts.jinja"} {
		f := FormatOf(templateFile(t, name))
		answer := f.Before + fmt.Sprintf(`{"%s": "now", "%s": {"a": 1}}`, f.Name, f.Arguments) + f.After
		_, _, calls, _ := parsed(NewParser(templateFile(t, name), ParserOptions{Tools: testTools}), answer)
		require.Equal(t, []string{`now{"a": 1}`}, calls, name)
	}
}

// FuzzAnswer: nothing of an answer is lost, calls are valid JSON, and it does not matter in which pieces it comes.
func FuzzAnswer(f *testing.F) {
	var templates []string
	for _, name := range []string{"qwen25-tools.jinja", "qwen3.jinja", "qwen35-xml.jinja", "llama31.jinja",
		"mistral-tools.jinja", "phi4mini.jinja", "granite.jinja", "gemma3-parts.jinja"} {
		templates = append(templates, templateFile(f, name))
	}
	for i, answer := range []string{
		"<think>\na\n</think>\n\nb <tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": [\"}\"]}}\n</tool_call>\nc",
		"[TOOL_CALLS]now[CALL_ID]x[ARGS]{}",
		"[TOOL_CALLS] [{\"name\": \"now\"}]", "<tool_call>\n<function=now>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
		"```json\n{\"name\": \"now\"}\n```", "{\"name\": \"now\"}; {\"name\": \"now\"} ",
		"<|tool_call|>[{\"name\": \"now\"}]<|/tool_call|>", "<|python_tag|>x.call(1)",
	} {
		f.Add(answer, uint8(i), uint8(3))
	}
	f.Fuzz(func(t *testing.T, answer string, template, size uint8) {
		source := templates[int(template)%len(templates)]
		o := ParserOptions{Tools: testTools, Reasoning: size&1 != 0}
		content, reasoning, calls, raw := parsed(NewParser(source, o), answer)
		require.Equal(t, answer, raw)
		p := NewParser(source, o)
		for _, d := range append(p.Feed(answer), p.End()...) {
			if d.Call != nil {
				require.True(t, json.Valid([]byte(d.Call.Arguments)), d.Call.Arguments)
			}
		}
		var pieces []string
		for i := 0; i < len(answer); i += int(size)%7 + 1 {
			pieces = append(pieces, answer[i:min(len(answer), i+int(size)%7+1)])
		}
		content2, reasoning2, calls2, raw2 := parsed(NewParser(source, o), pieces...)
		require.Equal(t, answer, raw2)
		require.Equal(t, content, content2)
		require.Equal(t, reasoning, reasoning2)
		require.Equal(t, calls, calls2)
		o.StreamCalls = true
		content3, reasoning3, calls3, raw3 := parsed(NewParser(source, o), answer)
		require.Equal(t, answer, raw3)
		content4, reasoning4, calls4, raw4 := parsed(NewParser(source, o), pieces...)
		require.Equal(t, answer, raw4)
		require.Equal(t, []any{content3, reasoning3, calls3}, []any{content4, reasoning4, calls4})
		for _, c := range calls {
			require.Contains(t, calls3, c, "a call that is whole is the same when it is streamed")
		}
	})
}

func TestCallsAreStreamed(t *testing.T) {
	const arguments = `{"place": "B}\"ern", "days": [1, {}]}`
	call := func(key string) string { return `{"name": "weather", "` + key + `": ` + arguments + `}` }
	for template, answer := range map[string]string{
		"qwen25-tools.jinja":  "<tool_call>\n" + call("arguments") + "\n</tool_call>",
		"llama31.jinja":       call("parameters"),
		"mistral-tools.jinja": "[TOOL_CALLS]weather[ARGS]" + arguments,
		"phi4mini.jinja":      "<|tool_call|>[" + call("arguments") + "]<|/tool_call|>",
		"gemma3-parts.jinja":  "```json\n" + call("arguments") + "\n```",
	} {
		p := NewParser(templateFile(t, template), ParserOptions{Tools: testTools, StreamCalls: true})
		steps, streamed := 0, ""
		for _, c := range strings.Split(answer, "") {
			for _, d := range p.Feed(c) {
				require.Empty(t, d.Content, template)
				if d.Call != nil {
					require.Equal(t, "weather", d.Call.Name)
					require.Empty(t, d.Call.Arguments)
					require.NotEmpty(t, d.Call.ID)
				}
				if d.Arguments != "" {
					steps++
				}
				streamed += d.Arguments
			}
		}
		require.Empty(t, p.End(), template)
		require.Equal(t, arguments, streamed, template)
		require.Equal(t, len(arguments), steps, "a character at a time")
	}
}

func TestStreamedCallsThatBreakAreNotLost(t *testing.T) {
	for answer, want := range map[string][2]string{
		"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"pl":         {`weather{"pl`, ""},
		"<tool_call>\n{\"name\": \"now\", \"arguments\": {}} oops":          {`now{}`, ""},
		"<tool_call>\n{\"name\": \"now\", \"arguments\": {} oops} and more": {`now{}`, " oops} and more"},
	} {
		p := NewParser(templateFile(t, "qwen25-tools.jinja"), ParserOptions{Tools: testTools, StreamCalls: true})
		content, _, calls, raw := parsed(p, strings.Split(answer, "")...)
		require.Equal(t, []string{want[0]}, calls, answer)
		require.Equal(t, answer, raw)
		if want[1] != "" {
			require.Equal(t, want[1], content)
		}
	}
}
