package chat

import (
	"errors"
	"regexp"
	"strings"
)

// detect finds the family of a template by the markup in its source, nil if there is none. New checks the
// finding against the template, unless it is certain, so that this may be generous.
func detect(source string) (name string, r renderer, certain bool) {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if !strings.Contains(source, p) {
				return false
			}
		}
		return true
	}
	switch {
	case has("<|im_start|>", "<|im_end|>"):
		return "chatml", chatml(defaultSystem(source)), false
	case has("<|start_header_id|>", "<|eot_id|>"):
		return "llama3", llama3(has("Cutting Knowledge Date: December 2023"), has("strftime_now")), false
	case has("<start_of_turn>", "<end_of_turn>"):
		return "gemma", gemma(!has("System role not supported")), has("first_user_prefix", "<start_of_image>")
	case has("<|assistant|>", "<|end|>"):
		return "phi3", phi3(has("else %}{{ eos_token }}")), false
	case has("[INST]", "[/INST]") && !has("<<SYS>>"):
		return "mistral", mistral(source), false
	case has("<|assistant|>", "<|user|>"):
		return "zephyr", zephyr, false
	}
	return "", nil, false
}

// defaultSystem returns the system prompt that a chatml template inserts into conversations without one.
func defaultSystem(source string) string {
	m := regexp.MustCompile(`<\|im_start\|>system(?:\\n|\n)([^{}|]*?)<\|im_end\|>`).FindAllStringSubmatch(source, -1)
	for _, s := range m {
		if s[1] != "" && !strings.Contains(s[1], "' +") && !strings.Contains(s[1], `" +`) {
			return strings.NewReplacer(`\n`, "\n", `\'`, "'", `\"`, `"`, `\\`, `\`).Replace(s[1])
		}
	}
	return ""
}

// chatml: SmolLM2, Qwen2.5 and many fine-tunes.
func chatml(system string) renderer {
	return func(c *conversation) (string, error) {
		var b strings.Builder
		if system != "" && c.messages[0].Role != "system" {
			b.WriteString("<|im_start|>system\n" + system + "<|im_end|>\n")
		}
		for _, m := range c.messages {
			b.WriteString("<|im_start|>" + m.Role + "\n" + m.Content + "<|im_end|>\n")
		}
		if c.addGenerationPrompt {
			b.WriteString("<|im_start|>assistant\n")
		}
		return b.String(), nil
	}
}

// llama3: Llama 3 without, Llama 3.1 and later with a dated system turn in every conversation.
func llama3(dated, today bool) renderer {
	header := func(role string) string { return "<|start_header_id|>" + role + "<|end_header_id|>\n\n" }
	return func(c *conversation) (string, error) {
		var b strings.Builder
		b.WriteString(c.bos)
		msgs := c.messages
		if dated {
			date := "26 Jul 2024"
			if today {
				date = c.now.Format("02 Jan 2006")
			}
			b.WriteString(header("system") + "Cutting Knowledge Date: December 2023\nToday Date: " + date + "\n\n")
			if msgs[0].Role == "system" {
				b.WriteString(strings.TrimSpace(msgs[0].Content))
				msgs = msgs[1:]
			}
			b.WriteString("<|eot_id|>")
		}
		for _, m := range msgs {
			b.WriteString(header(m.Role) + strings.TrimSpace(m.Content) + "<|eot_id|>")
		}
		if c.addGenerationPrompt {
			b.WriteString(header("assistant"))
		}
		return b.String(), nil
	}
}

// gemma: the system prompt, where there may be one, becomes the beginning of the first user turn.
func gemma(system bool) renderer {
	return func(c *conversation) (string, error) {
		msgs, prefix := c.messages, ""
		if msgs[0].Role == "system" {
			if !system {
				return "", errors.New("System role not supported")
			}
			prefix = msgs[0].Content + "\n\n"
			msgs = msgs[1:]
		}
		if err := checkAlternation(msgs); err != nil {
			return "", err
		}
		var b strings.Builder
		b.WriteString(c.bos)
		for i, m := range msgs {
			role, before := m.Role, ""
			if role == "assistant" {
				role = "model"
			}
			if i == 0 {
				before = prefix
			}
			b.WriteString("<start_of_turn>" + role + "\n" + before + strings.TrimSpace(m.Content) + "<end_of_turn>\n")
		}
		if c.addGenerationPrompt {
			b.WriteString("<start_of_turn>model\n")
		}
		return b.String(), nil
	}
}

func checkAlternation(msgs []Message) error {
	for i, m := range msgs {
		if (m.Role == "user") != (i%2 == 0) {
			return errors.New("Conversation roles must alternate user/assistant/user/assistant/...")
		}
	}
	return nil
}

func phi3(eosAtEnd bool) renderer {
	return func(c *conversation) (string, error) {
		var b strings.Builder
		for _, m := range c.messages {
			switch {
			case m.Role == "system" && m.Content != "", m.Role == "user", m.Role == "assistant":
				b.WriteString("<|" + m.Role + "|>\n" + m.Content + "<|end|>\n")
			}
		}
		switch {
		case c.addGenerationPrompt:
			b.WriteString("<|assistant|>\n")
		case eosAtEnd:
			b.WriteString(c.eos)
		}
		return b.String(), nil
	}
}

// mistral: versions differ in the spaces around the marks and in where the system prompt goes.
func mistral(source string) renderer {
	spaceOpen := strings.Contains(source, "[INST] ")
	spaceClose := strings.Contains(source, " [/INST]")
	spaceReply := regexp.MustCompile(`["'] ["'] ?\+ ?message`).MatchString(source)
	hasSystem := strings.Contains(source, "system")
	systemLast := strings.Contains(source, "loop.last and system_message is defined")
	spaced := func(space bool, s string) string {
		if space {
			return " " + s
		}
		return s
	}
	return func(c *conversation) (string, error) {
		msgs, system := c.messages, ""
		if hasSystem && msgs[0].Role == "system" {
			system, msgs = msgs[0].Content+"\n\n", msgs[1:]
		}
		if err := checkAlternation(msgs); err != nil {
			return "", err
		}
		var b strings.Builder
		b.WriteString(c.bos)
		for i, m := range msgs {
			switch {
			case m.Role == "user":
				text := m.Content
				if systemLast && i == len(msgs)-1 || !systemLast && i == 0 {
					text = system + text
				}
				b.WriteString("[INST]" + spaced(spaceOpen, text) + spaced(spaceClose, "[/INST]"))
			case m.Role == "assistant":
				b.WriteString(spaced(spaceReply, m.Content) + c.eos)
			default:
				return "", errors.New("Only user and assistant roles are supported!")
			}
		}
		return b.String(), nil
	}
}

// zephyr: also TinyLlama.
func zephyr(c *conversation) (string, error) {
	var b strings.Builder
	for _, m := range c.messages {
		switch m.Role {
		case "system", "user", "assistant":
			b.WriteString("<|" + m.Role + "|>\n" + m.Content + c.eos + "\n")
		}
	}
	if c.addGenerationPrompt {
		b.WriteString("<|assistant|>\n")
	}
	return b.String(), nil
}
