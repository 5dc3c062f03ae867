package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// generationFlags say how the engine generates: speculation, and what happens at the end of the context.
func generationFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "speculate", Value: "auto", Usage: "verify several tokens in one pass: ngram (what followed the " +
			"same words " +
			"before), draft (see --draft), off, or auto: ngram on a CPU. The text stays the same"},
		draftFlag(),
		&cli.BoolFlag{Name: "context-shift", Usage: "when the context is full, drop the older half of the conversation and go on"},
		&cli.IntFlag{Name: "keep", Value: -1, Usage: "with --context-shift: keep this many tokens of the prompt; -1: the " +
			"system message"},
	}
}

func draftFlag() cli.Flag {
	return &cli.StringFlag{Name: "draft", Aliases: []string{"model-draft", "md"},
		Usage: "a small `MODEL.ellm` of the same vocabulary that proposes tokens for --speculate draft"}
}

// speculateAuto lets the program choose.
const speculateAuto engine.Speculation = "auto"

// speculation reads --speculate and --draft.
func speculation(how, draft string) (engine.Speculation, error) {
	switch {
	case draft != "" && how != "auto" && how != string(engine.SpeculateDraft):
		return "", usagef("--draft needs --speculate draft")
	case draft != "" || how == string(engine.SpeculateDraft):
		if draft == "" {
			return "", usagef("--speculate draft needs a model (--draft MODEL.ellm)")
		}
		return engine.SpeculateDraft, nil
	case how == "auto":
		return speculateAuto, nil
	case how == "off" || how == "":
		return engine.SpeculateOff, nil
	case how == string(engine.SpeculateNgram):
		return engine.SpeculateNgram, nil
	}
	return "", usagef("--speculate %s: expected ngram, draft, off or auto", how)
}

// useDraft loads the draft model on the CPU or, if m is there, on the same device; path may be empty.
func (p *program) useDraft(ctx context.Context, m *loaded, path string) error {
	if path == "" {
		return nil
	}
	f, err := openModel(path)
	if err != nil {
		return err
	}
	b, err := p.openBackend(m.device)
	if err != nil {
		f.Close()
		return err
	}
	m.draft = &draftModel{f, b}
	opt := engine.LoadOptions{Announce: func(plan engine.MemoryPlan) { p.notef("draft model: %s", planLine(plan)) }}
	return m.UseDraft(ctx, f, b, opt)
}

// keepTokens returns how many tokens of a prompt stay when the context is shifted: as many as n says, or if it is negative those
// before the first user's message.
func keepTokens(ctx context.Context, m *loaded, opt *runOptions) int {
	if opt.keep >= 0 {
		return opt.keep
	}
	if _, adds := m.AddsBOS(); opt.raw {
		if adds {
			return 1
		}
		return 0
	}
	a, errA := m.ChatTokens(ctx, chat.Conversation{Messages: messages(opt.system, "A"), GenerationPrompt: true})
	b, errB := m.ChatTokens(ctx, chat.Conversation{Messages: messages(opt.system, "1"), GenerationPrompt: true})
	same := 0
	for errA == nil && errB == nil && same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	return same
}
