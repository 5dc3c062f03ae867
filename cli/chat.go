package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/peterh/liner"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

const chatHelp = `/reset forgets the conversation, /stats shows rates after every answer, /bye or Ctrl-D ends; a line ending in \ continues on the next one`

// messages returns a conversation of one question.
func messages(system, prompt string) []chat.Message {
	var m []chat.Message
	if system != "" {
		m = append(m, chat.Message{Role: "system", Content: system})
	}
	return append(m, chat.Message{Role: "user", Content: prompt})
}

// conversation is an interactive chat.
type conversation struct {
	p     *program
	model *loaded
	opt   runOptions
	said  []chat.Message
	stats bool
}

// chat talks with the user on the terminal until the end of input.
func (p *program) chat(ctx context.Context, m *loaded, opt runOptions) error {
	line := liner.NewLiner()
	defer line.Close()
	line.SetCtrlCAborts(true)
	line.SetMultiLineMode(true)
	p.notef("chat: %s", chatHelp)
	c := &conversation{p: p, model: m, opt: opt}
	for {
		text, err := readTurn(line)
		if errors.Is(err, io.EOF) || errors.Is(err, liner.ErrPromptAborted) {
			fmt.Fprintln(p.Out)
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(text) == "" {
			continue
		}
		line.AppendHistory(text)
		if quit, err := c.turn(ctx, text); quit || err != nil {
			return err
		}
	}
}

// readTurn reads one line, or several of which all but the last end in a backslash.
func readTurn(line *liner.State) (string, error) {
	prompt, text := "> ", ""
	for {
		s, err := line.Prompt(prompt)
		if err != nil {
			return "", err
		}
		if more, ok := strings.CutSuffix(s, `\`); ok {
			text += more + "\n"
			prompt = ". "
			continue
		}
		return text + s, nil
	}
}

// turn handles a command or answers a message.
func (c *conversation) turn(ctx context.Context, text string) (quit bool, err error) {
	switch strings.TrimSpace(text) {
	case "/bye", "/exit", "/quit":
		return true, nil
	case "/reset", "/clear":
		c.said = nil
		c.model.Reset()
		return false, nil
	case "/stats":
		c.stats = !c.stats
		return false, nil
	case "/help", "/?":
		c.p.notef("%s", chatHelp)
		return false, nil
	}
	err = c.reply(ctx, text)
	if errors.Is(err, engine.ErrPromptTooLong) {
		c.p.notef("%v: /reset starts a new conversation", err)
		err = nil
	}
	return false, err
}

// reply generates an answer; Ctrl-C ends the answer, not the chat.
func (c *conversation) reply(ctx context.Context, text string) error {
	prompt, said, err := c.prompt(text)
	if err != nil {
		return err
	}
	req := request(c.model, c.opt, prompt)
	req.OnText = func(s string) { io.WriteString(c.p.Out, s) }
	ctx, stop := interruptible(ctx)
	defer stop()
	res, err := c.model.Generate(ctx, req)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.p.Out)
	c.said = append(said, chat.Message{Role: "assistant", Content: res.Text})
	switch {
	case res.StopReason == engine.StopContext:
		c.p.notef("stopped: the context of %d tokens is full (use a larger --ctx, or /reset)", c.model.NCtx())
	case res.StopReason == engine.StopCancelled:
		c.p.notef("stopped by Ctrl-C")
	}
	if c.stats {
		c.p.notef("%s", ratesLine(res))
	}
	return nil
}

// prompt returns the tokens of the whole conversation with text as its last message.
func (c *conversation) prompt(text string) ([]int32, []chat.Message, error) {
	if c.opt.raw {
		return c.model.RawTokens(text), nil, nil
	}
	said := c.said
	if len(said) == 0 {
		said = messages(c.opt.system, text)
	} else {
		said = append(said[:len(said):len(said)], chat.Message{Role: "user", Content: text})
	}
	tokens, err := c.model.ChatTokens(said)
	return tokens, said, err
}
