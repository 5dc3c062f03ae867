package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/peterh/liner"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// messages returns a conversation of one question.
func messages(system, prompt string) []chat.Message {
	var m []chat.Message
	if system != "" {
		m = append(m, chat.Message{Role: "system", Content: system})
	}
	return append(m, chat.Message{Role: "user", Content: prompt})
}

// conversation is a chat, or what one prompt adds to a saved one.
type conversation struct {
	p      *program
	model  *loaded
	opt    runOptions
	said   []chat.Message
	tokens []int32 // prompt and answer of the last turn
	stats  bool
}

// remember takes an answer over.
func (c *conversation) remember(said []chat.Message, prompt []int32, res *engine.Result) {
	c.tokens = slices.Concat(prompt, res.Tokens)
	if !c.opt.raw {
		c.said = append(said, chat.Message{Role: "assistant", Content: res.Text})
	}
}

// chat talks with the user on the terminal until the end of input.
func (c *conversation) chat(ctx context.Context) error {
	line := liner.NewLiner()
	defer line.Close()
	line.SetCtrlCAborts(true)
	line.SetMultiLineMode(true)
	line.SetCompleter(completeCommand)
	defer c.p.keepHistory(line)()
	defer endWithTerminal(line)()
	c.p.notef("chat: /help lists the commands; /bye or Ctrl-D ends")
	err := c.turns(ctx, line)
	if c.opt.session != "" && len(c.tokens) > 0 {
		err = errors.Join(err, c.save(c.opt.session, true))
	}
	return err
}

// turns reads and answers until the end.
func (c *conversation) turns(ctx context.Context, line *liner.State) error {
	for {
		text, err := readTurn(line)
		if errors.Is(err, io.EOF) || errors.Is(err, liner.ErrPromptAborted) {
			fmt.Fprintln(c.p.Out)
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

// endWithTerminal ends the program on a signal from outside, with the terminal as it was before. The line editor waits for keys,
// so the signal cannot be passed to it. The function that is returned takes that back.
func endWithTerminal(line *liner.State) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, hangups()...)
	go func() {
		if _, ok := <-signals; ok {
			line.Close()
			os.Exit(exitInterrupted)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
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
	if command, known := findChatCommand(text); known {
		_, argument, _ := strings.Cut(strings.TrimSpace(text), " ")
		return command.act(c, ctx, strings.TrimSpace(argument))
	}
	return false, c.say(ctx, text)
}

// say answers a message; one that does not fit the context is no reason to end the chat.
func (c *conversation) say(ctx context.Context, text string) error {
	err := c.reply(ctx, text)
	if errors.Is(err, engine.ErrPromptTooLong) {
		c.p.notef("%v: /reset starts a new conversation", err)
		err = nil
	}
	return err
}

// reply generates an answer; Ctrl-C ends the answer, not the chat.
func (c *conversation) reply(ctx context.Context, text string) error {
	parent := ctx
	ctx, stop := interruptible(parent)
	defer stop()
	prompt, said, err := c.prompt(ctx, text)
	if err != nil {
		if ctx.Err() != nil && parent.Err() == nil {
			c.p.notef("stopped by Ctrl-C")
			return nil
		}
		return err
	}
	req := request(c.opt, prompt)
	req.OnText = func(s string) { io.WriteString(c.p.text, s) }
	res, err := c.model.Generate(ctx, req)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.p.Out)
	c.remember(said, prompt, res)
	switch {
	case res.StopReason == engine.StopContext:
		c.p.notef("stopped: the context of %d tokens is full (use a larger --ctx, or /reset)", c.model.NCtx())
	case res.StopReason == engine.StopCancelled:
		c.p.notef("stopped by Ctrl-C")
	}
	if c.stats {
		c.p.notef("%s", ratesLine(res))
	}
	if c.opt.session != "" {
		return c.save(c.opt.session, false) // the cache follows at the end
	}
	return nil
}

// prompt returns the tokens of the whole conversation with text as its last message.
func (c *conversation) prompt(ctx context.Context, text string) ([]int32, []chat.Message, error) {
	if c.opt.raw {
		if c.opt.session == "" || len(c.tokens) == 0 {
			return c.model.RawTokens(text), nil, nil
		}
		return append(slices.Clone(c.tokens), c.model.Tokenizer().Encode(text, false, true)...), nil, nil
	}
	said := append(c.withoutSystem(), chat.Message{Role: "user", Content: text})
	if c.opt.system != "" {
		said = append([]chat.Message{{Role: "system", Content: c.opt.system}}, said...)
	}
	for {
		tokens, err := c.model.ChatTokens(ctx, chat.Conversation{Messages: said, GenerationPrompt: true})
		shorter, ok := withoutOldest(said)
		if err != nil || !c.opt.shift || len(tokens) < c.model.NCtx() || !ok {
			return tokens, said, err
		}
		said = shorter
	}
}

// withoutSystem returns a copy of what was said but for the system message, which is c.opt.system.
func (c *conversation) withoutSystem() []chat.Message {
	said := slices.Clone(c.said)
	if len(said) > 0 && said[0].Role == "system" {
		said = said[1:]
	}
	return said
}

// withoutOldest drops the oldest turn of a conversation, a user's message and its answer. It reports false if there is only one.
func withoutOldest(said []chat.Message) ([]chat.Message, bool) {
	first := 0
	if len(said) > 0 && said[0].Role == "system" {
		first = 1
	}
	if len(said) < first+3 {
		return said, false
	}
	return slices.Concat(said[:first], said[first+2:]), true
}
