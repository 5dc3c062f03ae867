package engine

import (
	"context"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
)

// RawTokens returns the tokens of a prompt that is to be continued as it is: BOS, if the model adds one, and the text, in
// which names of control tokens stand for these tokens.
func (e *Engine) RawTokens(text string) []int32 {
	tokens := e.tok.Encode(text, false, true)
	if e.tok.AddBOS() && (len(tokens) == 0 || tokens[0] != e.tok.BOS()) {
		tokens = append([]int32{e.tok.BOS()}, tokens...)
	}
	return tokens
}

// ChatTokens returns the tokens of a conversation in the model's chat template. ctx ends the rendering.
func (e *Engine) ChatTokens(ctx context.Context, c chat.Conversation) ([]int32, error) {
	text, err := e.ChatText(ctx, c)
	if err != nil {
		return nil, err
	}
	return e.RawTokens(text), nil
}

// ChatText returns a conversation in the model's chat template.
func (e *Engine) ChatText(ctx context.Context, c chat.Conversation) (string, error) {
	t, err := e.template()
	if err != nil {
		return "", fmt.Errorf("%w (--raw continues the prompt without it)", err)
	}
	return t.Render(ctx, c)
}

func (e *Engine) pieceOf(id int32) string {
	if id < 0 {
		return ""
	}
	return e.tok.Piece(id)
}
