package engine

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
)

// RawTokens returns the tokens of a prompt that is to be continued as it is: BOS, if the model adds one, and the text, in
// which names of control tokens stand for these tokens.
func (s *Session) RawTokens(text string) []int32 {
	tokens := s.tok.Encode(text, false, true)
	if s.tok.AddBOS() && (len(tokens) == 0 || tokens[0] != s.tok.BOS()) {
		tokens = append([]int32{s.tok.BOS()}, tokens...)
	}
	return tokens
}

// ChatTokens returns the tokens of a conversation in the model's chat template, ending where the assistant begins to speak.
func (s *Session) ChatTokens(messages []chat.Message) ([]int32, error) {
	if s.template == nil {
		t, err := chat.New(s.meta.ChatTemplate, s.pieceOf(s.tok.BOS()), s.pieceOf(s.tok.EOS()))
		if err != nil {
			return nil, fmt.Errorf("%w (--raw continues the prompt without it)", err)
		}
		s.template = t
	}
	text, err := s.template.Render(messages, true)
	if err != nil {
		return nil, err
	}
	return s.RawTokens(text), nil
}

func (s *Session) pieceOf(id int32) string {
	if id < 0 {
		return ""
	}
	return s.tok.Piece(id)
}
