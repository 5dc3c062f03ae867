package chat

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goldens.json is written by testdata/make_goldens.py.
type goldens struct {
	Conversations [][]Message
	Templates     []struct {
		Family, Name, Source string
		Rendered             []*string
	}
}

func readGoldens(t testing.TB) (g goldens) {
	b, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &g))
	return g
}

func newTemplate(t testing.TB, source string) *Template {
	tmpl, err := New(source, "<s>", "</s>")
	require.NoError(t, err)
	tmpl.now = func() time.Time { return time.Date(2025, 3, 7, 12, 0, 0, 0, time.UTC) }
	return tmpl
}

func TestRenderAgainstJinja2(t *testing.T) {
	g := readGoldens(t)
	require.NotEmpty(t, g.Templates)
	for _, c := range g.Templates {
		t.Run(c.Name, func(t *testing.T) {
			tmpl := newTemplate(t, c.Source)
			require.Equal(t, c.Family, tmpl.Family())
			require.Len(t, c.Rendered, 2*len(g.Conversations))
			for i, msgs := range g.Conversations {
				for j, generate := range []bool{false, true} {
					want := c.Rendered[2*i+j]
					got, err := tmpl.Render(msgs, generate)
					if want == nil {
						require.Error(t, err, "conversation %d, %t", i, generate)
						continue
					}
					if tmpl.jinja == nil && hasOtherRole(msgs) {
						require.ErrorContains(t, err, `role "tool"`)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, *want, got, "conversation %d, %t", i, generate)
				}
			}
		})
	}
}

func hasOtherRole(msgs []Message) bool {
	for _, m := range msgs {
		if m.Role == "tool" {
			return true
		}
	}
	return false
}

func TestDefaultSystemPrompt(t *testing.T) {
	g := readGoldens(t)
	tmpl := newTemplate(t, g.Templates[0].Source)
	require.NotNil(t, tmpl.builtin)
	got, err := tmpl.Render([]Message{{"user", "Hi"}}, true)
	require.NoError(t, err)
	require.Equal(t, "<|im_start|>system\nYou are a test assistant. Don't panic.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", got)
}

func TestErrors(t *testing.T) {
	_, err := New("", "", "")
	require.ErrorIs(t, err, ErrNoTemplate)

	for _, source := range []string{"{% for %}", "{{ a", "{% if x %}", "{% for m in messages %}{{ (m", "{% include '/etc/passwd' %}"} {
		tmpl, err := New(source, "", "")
		if err == nil {
			_, err = tmpl.Render([]Message{{"user", "x"}}, true)
		}
		require.Error(t, err, source)
	}

	// Looks like chatml, but cannot be read: no guess.
	_, err = New("{{ bos_token }}<|im_start|><|im_end|>{{ ( }}", "", "")
	require.ErrorContains(t, err, "cannot be read")

	tmpl := newTemplate(t, "{{ raise_exception('no ' + messages[0].role) }}")
	_, err = tmpl.Render([]Message{{"user", "x"}}, true)
	require.EqualError(t, err, "chat template: no user")
	_, err = tmpl.Render(nil, true)
	require.Error(t, err)
	_, err = newTemplate(t, "{{ strftime_now('%Q') }}").Render([]Message{{"user", "x"}}, true)
	require.ErrorContains(t, err, "%Q")
}

func TestStrftime(t *testing.T) {
	at := time.Date(2025, 3, 7, 4, 5, 9, 0, time.UTC)
	for format, want := range map[string]string{
		"%d %b %Y": "07 Mar 2025", "%-d/%-m/%y": "7/3/25", "%A, %B": "Friday, March", "%H:%M:%S%%": "04:05:09%", "%j": "066", "": "",
	} {
		got, err := strftime(at, format)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"%", "%-", "%Q", "%-Y"} {
		_, err := strftime(at, bad)
		require.Error(t, err, bad)
	}
}

func TestToJSON(t *testing.T) {
	render := func(expr string) string {
		got, err := newTemplate(t, "{{ "+expr+" }}").Render([]Message{{"user", "<é> \"q\" 'a'\n"}}, false)
		require.NoError(t, err)
		return got
	}
	require.Equal(t, `"<é> \"q\" 'a'\n"`, render("messages[0].content | tojson"))
	require.Equal(t, `{"role": "user", "content": "<é> \"q\" 'a'\n"}`, render("messages[0] | tojson"))
	require.Equal(t, "[\n  1,\n  true,\n  null\n]", render("[1, true, none] | tojson(indent=2)"))
	require.Equal(t, `[]`, render("[] | tojson(indent=2)"))
}

func FuzzNew(f *testing.F) {
	g := readGoldens(f)
	for _, c := range g.Templates {
		f.Add(c.Source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		if strings.Contains(source, "range") || strings.Contains(source, "*") || len(source) > 4096 {
			t.Skip("templates may compute for long")
		}
		tmpl, err := New(source, "<s>", "</s>")
		if err != nil {
			return
		}
		if _, err := tmpl.Render([]Message{{"user", "x"}}, true); err != nil {
			require.ErrorContains(t, err, "chat template: ")
		}
	})
}
