// Package chat renders conversations into the text a chat model was trained on.
package chat

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoTemplate is returned by New for a model without chat template.
var ErrNoTemplate = errors.New("the model has no chat template; give the prompt as it is, without chat markup")

// Message is one turn of a conversation. Role is "system", "user" or "assistant"; other roles are up to the template.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Template renders conversations. It is safe for concurrent use.
type Template struct {
	family   string
	builtin  renderer // for conversations of system, user and assistant; may be nil
	jinja    renderer // the template itself; nil if the engine cannot read it
	bos, eos string
	now      func() time.Time
}

type renderer = func(*conversation) (string, error)

// conversation is what a renderer sees.
type conversation struct {
	messages            []Message
	addGenerationPrompt bool
	bos, eos            string
	now                 time.Time
}

// New prepares a model's template, written in Jinja. bos and eos are the names of the model's BOS and EOS
// tokens, which templates may insert ("" if there is none).
//
// A template of a known family is rendered by Go code if a set of probing conversations comes out exactly as
// the template itself says, or if the Jinja engine cannot read the template but it is beyond doubt; everything
// else is left to the engine.
func New(templateSource, bos, eos string) (*Template, error) {
	if templateSource == "" {
		return nil, ErrNoTemplate
	}
	t := &Template{family: "jinja", bos: bos, eos: eos, now: time.Now}
	engine, err := newJinja(templateSource)
	if err == nil {
		t.jinja = engine.render
	}
	name, builtin, certain := detect(templateSource)
	if builtin != nil && (err != nil && certain || err == nil && sameOnProbes(builtin, t.jinja, bos, eos)) {
		t.family, t.builtin = name, builtin
	}
	if t.builtin == nil && t.jinja == nil {
		return nil, fmt.Errorf("chat template: %w; give the prompt as it is, without chat markup", err)
	}
	return t, nil
}

// Family says how the template is rendered: by the name of a family built in, or "jinja".
func (t *Template) Family() string { return t.family }

// Render returns the text of a conversation. addGenerationPrompt appends the beginning of the assistant's turn.
// Errors are those the template raises, for example for roles in an order it does not know.
func (t *Template) Render(msgs []Message, addGenerationPrompt bool) (string, error) {
	if len(msgs) == 0 {
		return "", errors.New("chat template: the conversation is empty")
	}
	render := t.builtin
	for _, m := range msgs {
		known := m.Role == "system" || m.Role == "user" || m.Role == "assistant"
		if render == nil || !known && t.jinja != nil {
			render = t.jinja
		} else if !known {
			return "", fmt.Errorf("chat template: role %q is not one of system, user, assistant", m.Role)
		}
	}
	s, err := render(&conversation{msgs, addGenerationPrompt, t.bos, t.eos, t.now()})
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return s, nil
}

// sameOnProbes compares two renderers on conversations that bring out the differences between templates of a
// family: default system prompts, white space that is trimmed, refused orders of roles, what ends a turn.
func sameOnProbes(a, b renderer, bos, eos string) bool {
	user, reply, system := Message{"user", " Hello\n"}, Message{"assistant", "\tHi there "}, Message{"system", " Be brief.\n "}
	other := Message{"user", "And <then>\n\nwhat's \"next\"? "}
	for _, msgs := range [][]Message{
		{user}, {system, user}, {user, reply, other}, {system, user, reply, other}, {user, reply}, {system},
		{system, user, reply, other, reply}, {user, system, other}, {user, other}, {reply, user}, {{"user", ""}},
		{system, system, user}, {{"system", ""}, user},
	} {
		for _, generate := range []bool{false, true} {
			c := conversation{msgs, generate, bos, eos, time.Now()}
			x, errX := a(&c)
			y, errY := b(&c)
			if x != y || (errX == nil) != (errY == nil) {
				return false
			}
		}
	}
	return true
}
