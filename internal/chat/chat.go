// Package chat renders conversations into the text a chat model was trained on, as the transformers library does.
package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/jinja"
)

// ErrNoTemplate is returned by New for a model without chat template.
var ErrNoTemplate = errors.New("the model has no chat template; give the prompt as it is, without chat markup")

// Conversation is what a template renders.
type Conversation struct {
	Messages []Message
	// Tools are the tools the model may call, each an object as transformers and OpenAI have it:
	// {"type": "function", "function": {"name": …, "description": …, "parameters": JSON schema}}.
	Tools []json.RawMessage
	// Options are further variables of the template (chat_template_kwargs), such as enable_thinking.
	Options map[string]json.RawMessage
	// GenerationPrompt appends the beginning of the assistant's turn.
	GenerationPrompt bool
	// ContinueFinal leaves the last message open, so that the model continues it. It excludes GenerationPrompt.
	ContinueFinal bool
}

// Template renders conversations. It is safe for concurrent use.
type Template struct {
	source   string
	template *jinja.Template
	bos, eos string
	now      func() time.Time
}

// New prepares a model's template, written in Jinja. bos and eos are the names of the model's BOS and EOS
// tokens, which templates may insert ("" if there is none). An error names the line and the construct.
func New(source, bos, eos string) (*Template, error) {
	if source == "" {
		return nil, ErrNoTemplate
	}
	t, err := jinja.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("chat template cannot be read: %w; give the prompt as it is, without chat markup", err)
	}
	return &Template{source: source, template: t, bos: bos, eos: eos, now: time.Now}, nil
}

// Source returns the template's text.
func (t *Template) Source() string { return t.source }

// reserved are the variables that Options cannot replace.
var reserved = []string{"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}

// Render returns the text of a conversation. Errors are those the template raises, for example for roles in an order it
// does not know, those of ctx, and exceeded bounds: steps, memory and output grow with the conversation only.
func (t *Template) Render(ctx context.Context, c Conversation) (string, error) {
	if len(c.Messages) == 0 {
		return "", errors.New("chat template: the conversation is empty")
	}
	text, err := t.render(ctx, &c)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return text, nil
}

func (t *Template) render(ctx context.Context, c *Conversation) (string, error) {
	if c.ContinueFinal {
		return t.open(ctx, c)
	}
	vars := map[string]jinja.Value{
		"tools": nil, "documents": nil, "add_generation_prompt": c.GenerationPrompt, "bos_token": t.bos, "eos_token": t.eos,
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		if slices.Contains(reserved, name) {
			return "", fmt.Errorf("option %q is set by the program", name)
		}
		v, err := jinja.FromJSON(c.Options[name])
		if err != nil {
			return "", fmt.Errorf("option %q: %w", name, err)
		}
		vars[name] = v
		size += len(c.Options[name])
	}
	tools, n, err := toolList(c.Tools)
	if err != nil {
		return "", err
	}
	if tools != nil {
		vars["tools"] = tools
	}
	size += n
	messages := jinja.NewList()
	for i := range c.Messages {
		m := &c.Messages[i]
		messages.Items = append(messages.Items, m.value())
		size += m.size()
	}
	vars["messages"] = messages
	return t.template.Render(ctx, vars, t.now(), jinja.DefaultLimits(size))
}

func toolList(tools []json.RawMessage) (*jinja.List, int, error) {
	if len(tools) == 0 {
		return nil, 0, nil
	}
	list, size := jinja.NewList(), 0
	for i, tool := range tools {
		v, err := jinja.FromJSON(tool)
		if err != nil {
			return nil, 0, fmt.Errorf("tool %d: %w", i, err)
		}
		if _, ok := v.(*jinja.Dict); !ok {
			return nil, 0, fmt.Errorf("tool %d is not a JSON object", i)
		}
		list.Items = append(list.Items, v)
		size += len(tool)
	}
	return list, size, nil
}

// continueMark is what open adds to the last message to find its end in the text, as transformers does.
const continueMark = "CONTINUE_FINAL_MESSAGE_TAG "

// open renders a conversation up to the end of its last message.
func (t *Template) open(ctx context.Context, c *Conversation) (string, error) {
	if c.GenerationPrompt {
		return "", errors.New("the last message is to be continued, so no new one can begin")
	}
	marked := *c
	marked.ContinueFinal = false
	marked.Messages = slices.Clone(c.Messages)
	last := &marked.Messages[len(marked.Messages)-1]
	last.Content += continueMark
	text, err := t.render(ctx, &marked)
	if err != nil {
		return "", err
	}
	at := strings.LastIndex(text, strings.TrimSpace(continueMark))
	if at < 0 {
		return "", errors.New("the template does not show the last message, so it cannot be continued")
	}
	if strings.HasPrefix(text[at:], continueMark) {
		return text[:at], nil
	}
	return strings.TrimRight(text[:at], " \t\r\n"), nil // the template trims messages
}
