package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/peterh/liner"

	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/store"
)

// chatCommand is what a line of a chat that begins with a slash may ask for.
type chatCommand struct {
	names, argument, usage string
	act                    func(c *conversation, ctx context.Context, argument string) (quit bool, err error)
}

func chatCommands() []chatCommand {
	return []chatCommand{
		{"/help /?", "", "list the commands", (*conversation).help},
		{"/regenerate /retry", "", "answer the last message again, with another seed", (*conversation).regenerate},
		{"/system", "TEXT", "set the system message; without TEXT: show it", (*conversation).system},
		{"/set", "OPTION VALUE", "change a sampling option or n; without them: show all", (*conversation).set},
		{"/save", "FILE", "save the conversation and its cache; without FILE: to that of --session", (*conversation).saveTo},
		{"/load", "FILE", "go on with a saved conversation; without FILE: with that of --session", (*conversation).loadFrom},
		{"/reset /clear", "", "forget the conversation", (*conversation).reset},
		{"/stats", "", "show rates after every answer, or no longer", (*conversation).toggleStats},
		{"/bye /exit /quit", "", "end; so does Ctrl-D", (*conversation).bye},
	}
}

// findChatCommand returns the command that a line begins with. A line with another slash is a message.
func findChatCommand(line string) (chatCommand, bool) {
	word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	for _, c := range chatCommands() {
		if word != "" && slices.Contains(strings.Fields(c.names), word) {
			return c, true
		}
	}
	return chatCommand{}, false
}

// completeCommand completes a command's name for the line editor.
func completeCommand(line string) (all []string) {
	for _, c := range chatCommands() {
		for _, name := range strings.Fields(c.names) {
			if strings.HasPrefix(line, "/") && strings.HasPrefix(name, line) {
				all = append(all, name)
			}
		}
	}
	return all
}

func (c *conversation) help(context.Context, string) (bool, error) {
	for _, k := range chatCommands() {
		c.p.notef("  %-28s %s", strings.TrimSpace(strings.ReplaceAll(k.names, " ", ", ")+" "+k.argument), k.usage)
	}
	c.p.notef(`  a line that ends in \ continues on the next one; Ctrl-C ends an answer`)
	return false, nil
}

func (c *conversation) bye(context.Context, string) (quit bool, err error) { return true, nil }

func (c *conversation) reset(context.Context, string) (bool, error) {
	c.said, c.tokens = nil, nil
	c.model.Reset()
	return false, nil
}

func (c *conversation) toggleStats(context.Context, string) (bool, error) {
	c.stats = !c.stats
	return false, nil
}

func (c *conversation) system(_ context.Context, text string) (bool, error) {
	switch {
	case c.opt.raw:
		c.p.notef("--raw leaves out the chat template, and with it the system message")
	case text != "":
		c.opt.system = text
	case c.opt.system == "":
		c.p.notef("there is no system message; the template may have one of its own")
	default:
		c.p.notef("%s", c.opt.system)
	}
	return false, nil
}

func (c *conversation) regenerate(ctx context.Context, _ string) (bool, error) {
	n := len(c.said)
	if n < 2 || c.said[n-1].Role != "assistant" || c.said[n-2].Role != "user" {
		c.p.notef("there is no answer yet")
		return false, nil
	}
	c.opt.sampling.Seed++
	before, question := c.said, c.said[n-2].Content
	c.said = c.said[:n-2]
	err := c.say(ctx, question)
	if len(c.said) == n-2 { // no answer came
		c.said = before
	}
	return false, err
}

// set changes a sampling option, under the name that it has on the command line.
func (c *conversation) set(_ context.Context, argument string) (bool, error) {
	words := strings.Fields(strings.ReplaceAll(argument, "=", " "))
	switch len(words) {
	case 0:
		c.showOptions()
	case 2:
		if err := c.setOption(strings.ReplaceAll(strings.TrimLeft(words[0], "-"), "_", "-"), words[1]); err != nil {
			c.p.notef("%v", err)
		}
	default:
		c.p.notef("/set: expected an option and a value, as in /set temp 0.5")
	}
	return false, nil
}

func (c *conversation) setOption(name, text string) error {
	if full, ok := map[string]string{"temperature": "temp", "typical-p": "typical", "predict": "n", "n-predict": "n"}[name]; ok {
		name = full
	}
	v, err := strconv.ParseFloat(text, 64)
	floats, ints := samplingFields(&c.opt.sampling)
	_, isFloat := floats[name]
	whole := !isFloat && name != "top-p"
	if err != nil || whole && v != math.Trunc(v) {
		return fmt.Errorf("/set %s %s: expected a number", name, text)
	}
	if _, isInt := ints[name]; !isInt && !isFloat && !slices.Contains([]string{"n", "seed", "top-p"}, name) {
		return fmt.Errorf("/set %s: there is no such option (/set lists them)", name)
	}
	if err := ranges[name].check(name, v); err != nil {
		return err
	}
	switch {
	case isFloat:
		*floats[name] = float32(v)
	case name == "top-p":
		c.opt.sampling.TopP = sample.Nucleus(v)
	case name == "n":
		c.opt.n = max(int(v), -1)
	case name == "seed":
		c.opt.sampling.Seed = uint64(max(v, 0))
	default:
		*ints[name] = int(v)
	}
	return c.opt.prepare(c.model)
}

func (c *conversation) showOptions() {
	floats, ints := samplingFields(&c.opt.sampling)
	values := map[string]string{"n": strconv.Itoa(c.opt.n), "seed": strconv.FormatUint(c.opt.sampling.Seed, 10),
		"top-p": number(decimal(c.opt.sampling.TopP))}
	for name, v := range floats {
		values[name] = number(decimal(*v))
	}
	for name, v := range ints {
		values[name] = strconv.Itoa(*v)
	}
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c.p.notef("  %-20s %s", name, values[name])
	}
}

func (c *conversation) saveTo(_ context.Context, path string) (bool, error) {
	if path == "" {
		path = c.opt.session
	}
	if path == "" {
		c.p.notef("/save: expected the name of a file")
		return false, nil
	}
	if err := c.save(path, true); err != nil {
		c.p.notef("%v", err)
	} else {
		c.p.notef("saved in %s", path)
	}
	return false, nil
}

func (c *conversation) loadFrom(_ context.Context, path string) (bool, error) {
	if path == "" {
		path = c.opt.session
	}
	if path == "" {
		c.p.notef("/load: expected the name of a file")
		return false, nil
	}
	if _, err := os.Stat(path); err != nil {
		c.p.notef("%v", checkInput(path))
		return false, nil
	}
	if err := c.resume(path); err != nil {
		c.p.notef("%v", err)
		return false, nil
	}
	c.p.notef("%d messages, %d tokens", len(c.said), len(c.tokens))
	return false, nil
}

// keepHistory gives the line editor the lines of earlier chats. The function that is returned keeps those of this one, too. A
// history that cannot be read or written is done without.
func (p *program) keepHistory(line *liner.State) (keep func()) {
	dir, err := store.Home(os.Getenv)
	if err != nil {
		return func() {}
	}
	path := filepath.Join(dir, "history")
	if f, err := os.Open(path); err == nil {
		_, _ = line.ReadHistory(f)
		f.Close()
	}
	return func() {
		if err := writeHistory(line, dir, path); err != nil {
			p.notef("the history of lines was not kept: %v", err)
		}
	}
}

func writeHistory(line *liner.State, dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The file that is replaced passes its mode on: nobody else may read what was said.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		f.Close()
	case !errors.Is(err, os.ErrExist):
		return err
	}
	w, err := outfile.Create(outfile.OS{}, path)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := line.WriteHistory(w); err != nil {
		return err
	}
	return w.Commit()
}
