package chat

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goldens.json is written by testdata/make_goldens.py.
type goldens struct {
	Requests []struct {
		Messages []Message
		Tools    []json.RawMessage
		Options  map[string]json.RawMessage
		Generate bool
	}
	Templates []struct {
		Name, Source string // the source is in testdata/templates if it is empty
		Rendered     []*string
	}
}

func readGoldens(t testing.TB) (g goldens) {
	b, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &g))
	for i := range g.Templates {
		if c := &g.Templates[i]; c.Source == "" {
			b, err := os.ReadFile("testdata/templates/" + c.Name)
			require.NoError(t, err)
			c.Source = string(b)
		}
	}
	return g
}

func newTemplate(t testing.TB, source string) *Template {
	tmpl, err := New(source, "<s>", "</s>")
	require.NoError(t, err)
	tmpl.now = func() time.Time { return time.Date(2025, 3, 7, 12, 0, 0, 0, time.UTC) }
	return tmpl
}

// user returns a conversation of one message.
func user(text string) Conversation {
	return Conversation{Messages: []Message{{Role: "user", Content: text}}, GenerationPrompt: true}
}

func TestRendersAsTransformers(t *testing.T) {
	g := readGoldens(t)
	require.Greater(t, len(g.Templates), 25)
	require.Greater(t, len(g.Requests), 40)
	for _, c := range g.Templates {
		t.Run(c.Name, func(t *testing.T) {
			tmpl := newTemplate(t, c.Source)
			require.Len(t, c.Rendered, len(g.Requests))
			for i, r := range g.Requests {
				got, err := tmpl.Render(context.Background(), Conversation{
					Messages: r.Messages, Tools: r.Tools, Options: r.Options, GenerationPrompt: r.Generate,
				})
				if want := c.Rendered[i]; want == nil {
					require.Error(t, err, "request %d", i)
				} else {
					require.NoError(t, err, "request %d", i)
					require.Equal(t, *want, got, "request %d", i)
				}
			}
		})
	}
}

func TestErrorsNameLineAndConstruct(t *testing.T) {
	_, err := New("", "", "")
	require.ErrorIs(t, err, ErrNoTemplate)
	for source, want := range map[string]string{
		"a\n{% for %}":                    "line 2: expected an expression",
		"{{ a":                            "line 1: the tag has no end",
		"\n\n{% include '/etc/passwd' %}": "line 3: tag include is not supported",
		"{% import 'x' as y %}":           "line 1: tag import is not supported",
		"{% extends 'x' %}":               "line 1: tag extends is not supported",
		"{% do x.append(1) %}":            `line 1: tag "do" is not supported`,
	} {
		_, err := New(source, "", "")
		require.ErrorContains(t, err, want, source)
	}
	for source, want := range map[string]string{
		"\n{{ messages | xmlattr }}":             "line 2: filter xmlattr is not supported",
		"\n\n{{ messages[0].content.encode() }}": "line 3: method encode of str is not supported",
		"{{ messages[0] is odder }}":             "line 1: test odder is not supported",
		"\n{{ nobody.x }}":                       "line 2: 'nobody' is undefined",
		"{{ messages.append(1) }}":               "line 1: method append of list is not supported",
		"{{ lipsum(3) }}":                        "line 1: function lipsum is not supported",
		"{{ strftime_now('%Q') }}":               `format "%Q" is not supported`,
	} {
		_, err := newTemplate(t, source).Render(context.Background(), user("x"))
		require.ErrorContains(t, err, want, source)
	}
}

func TestRaisedTextIsTheErrorWithoutControlCharacters(t *testing.T) {
	tmpl := newTemplate(t, "{{ raise_exception('no ' + messages[0].role) }}")
	_, err := tmpl.Render(context.Background(), user("x"))
	require.EqualError(t, err, "chat template: no user")
	tmpl = newTemplate(t, "{{ raise_exception('a\x1b[31m\n' + 'b' * 9999) }}")
	_, err = tmpl.Render(context.Background(), user("x"))
	require.ErrorContains(t, err, `a\u001b[31m\nbbb`)
	require.Less(t, len(err.Error()), 600)
	_, err = tmpl.Render(context.Background(), Conversation{})
	require.ErrorContains(t, err, "empty")
}

func TestOptionsReachTheTemplate(t *testing.T) {
	tmpl := newTemplate(t, "{{ 'on' if enable_thinking else 'off' }} {{ budget.high }}")
	c := user("x")
	c.Options = map[string]json.RawMessage{"enable_thinking": json.RawMessage("true"), "budget": json.RawMessage(`{"high": [1]}`)}
	got, err := tmpl.Render(context.Background(), c)
	require.NoError(t, err)
	require.Equal(t, "on [1]", got)
	for name, value := range map[string]string{"messages": "[]", "bos_token": `""`, "broken": "{"} {
		c.Options = map[string]json.RawMessage{name: json.RawMessage(value)}
		_, err := tmpl.Render(context.Background(), c)
		require.ErrorContains(t, err, name)
	}
	c = user("x")
	for _, tool := range []string{"1", "{", `{"a":`} {
		c.Tools = []json.RawMessage{json.RawMessage(tool)}
		_, err := tmpl.Render(context.Background(), c)
		require.ErrorContains(t, err, "tool 0")
	}
}

func TestFinalMessageStaysOpen(t *testing.T) {
	c := Conversation{ContinueFinal: true, Messages: []Message{
		{Role: "user", Content: "2+2?"}, {Role: "assistant", Content: "It is "},
	}}
	for source, want := range map[string]string{
		"{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}":        "<user>2+2?</><assistant>It is ",
		"{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}": "<user>2+2?</><assistant>It is",
	} {
		got, err := newTemplate(t, source).Render(context.Background(), c)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := newTemplate(t, "{{ messages[0].content }}").Render(context.Background(), c)
	require.ErrorContains(t, err, "cannot be continued")
	c.GenerationPrompt = true
	_, err = newTemplate(t, "x").Render(context.Background(), c)
	require.Error(t, err)
}

func TestToolCallsAreReadInBothForms(t *testing.T) {
	for _, text := range []string{
		`{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}`,
		`{"id":"1","type":"function","function":{"name":"f","arguments":{"a": 1}}}`,
	} {
		var c ToolCall
		require.NoError(t, json.Unmarshal([]byte(text), &c))
		require.Equal(t, ToolCall{"1", "f", `{"a": 1}`}, c)
		b, err := json.Marshal(c)
		require.NoError(t, err)
		require.JSONEq(t, `{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}`, string(b))
	}
	tmpl := newTemplate(t, "{{ messages[0].tool_calls[0].function.arguments is string }}")
	for arguments, want := range map[string]string{`{"a": 1}`: "False", "not JSON": "True", "": "False", "[1]": "True"} {
		said := Message{Role: "assistant", ToolCalls: []ToolCall{{Arguments: arguments}}}
		got, err := tmpl.Render(context.Background(), Conversation{Messages: []Message{said}})
		require.NoError(t, err)
		require.Equal(t, want, got, arguments)
	}
}

func TestLongConversationsFitTheBounds(t *testing.T) {
	g := readGoldens(t)
	long := Conversation{GenerationPrompt: true}
	for range 500 {
		long.Messages = append(long.Messages, Message{Role: "user", Content: strings.Repeat("question ", 200)},
			Message{Role: "assistant", Content: "<think>hm</think>" + strings.Repeat("answer ", 500)})
	}
	long.Messages = append(long.Messages, Message{Role: "user", Content: "?"})
	for _, c := range g.Templates {
		_, err := newTemplate(t, c.Source).Render(context.Background(), long)
		require.NoError(t, err, c.Name)
	}
}

func FuzzTemplate(f *testing.F) {
	g := readGoldens(f)
	for _, c := range g.Templates {
		if len(c.Source) < 1500 {
			f.Add(c.Source, "Hello")
		}
	}
	call := []ToolCall{{"1", "f", `{"a": [1, null]}`}}
	f.Fuzz(func(t *testing.T, source, text string) {
		tmpl, err := New(source, "<s>", "</s>")
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err = tmpl.Render(ctx, Conversation{
			Messages: []Message{{Role: "user", Content: text}, {Role: "assistant", ToolCalls: call}},
			Tools:    []json.RawMessage{json.RawMessage(`{"name": "f"}`)},
		})
		require.NoError(t, ctx.Err(), "a template must not run for so long")
		if err != nil {
			require.ErrorContains(t, err, "chat template: ")
		}
	})
}

func BenchmarkRender(b *testing.B) {
	g := readGoldens(b)
	for _, c := range g.Templates {
		if c.Name != "qwen3.jinja" {
			continue
		}
		tmpl := newTemplate(b, c.Source)
		for b.Loop() {
			if _, err := tmpl.Render(context.Background(), user("Hello")); err != nil {
				b.Fatal(err)
			}
		}
	}
}
