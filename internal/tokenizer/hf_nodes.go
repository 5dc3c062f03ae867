package tokenizer

import "fmt"

// hfNode is a normalizer, pre-tokenizer, post-processor or decoder of tokenizer.json, with the fields of all kinds.
type hfNode struct {
	Type          string    `json:"type"`
	Normalizers   []*hfNode `json:"normalizers"`
	PreTokenizers []*hfNode `json:"pretokenizers"`
	Processors    []*hfNode `json:"processors"`
	Decoders      []*hfNode `json:"decoders"`

	Prepend string `json:"prepend"`
	Content string `json:"content"`
	Pattern struct {
		String *string `json:"String"`
		Regex  *string `json:"Regex"`
	} `json:"pattern"`
	Behavior         string `json:"behavior"`
	Invert           bool   `json:"invert"`
	IndividualDigits bool   `json:"individual_digits"`
	AddPrefixSpace   *bool  `json:"add_prefix_space"`
	UseRegex         *bool  `json:"use_regex"`
	PrependScheme    string `json:"prepend_scheme"`
	Replacement      string `json:"replacement"`
	Split            *bool  `json:"split"`

	Single []struct {
		SpecialToken *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
	} `json:"single"`
	SpecialTokens map[string]struct {
		Tokens []string `json:"tokens"`
	} `json:"special_tokens"`
}

// flatten returns the nodes of a Sequence in order, or the node itself; nothing for nil.
func (n *hfNode) flatten() []*hfNode {
	if n == nil {
		return nil
	}
	if n.Type != "Sequence" {
		return []*hfNode{n}
	}
	var all []*hfNode
	for _, list := range [][]*hfNode{n.Normalizers, n.PreTokenizers, n.Processors, n.Decoders} {
		for _, child := range list {
			all = append(all, child.flatten()...)
		}
	}
	return all
}

func isTrue(b *bool, absent bool) bool {
	if b == nil {
		return absent
	}
	return *b
}

// readNodes turns normalizer, pre-tokenizer and decoder into kind, normal form, prefix and splitting rules.
func (h *hfTokenizer) readNodes(s *spec) error {
	replaced, err := readNormalizer(h.Normalizer, s)
	if err != nil {
		return err
	}
	for i, n := range h.PreTokenizer.flatten() {
		switch n.Type {
		case "ByteLevel":
			s.kind = byteLevel
			if isTrue(n.AddPrefixSpace, true) {
				if i > 0 {
					return fmt.Errorf("pre_tokenizer: ByteLevel with add_prefix_space after another node is not supported")
				}
				s.prefix = prefixUnlessSpace
			}
			if isTrue(n.UseRegex, true) {
				s.rules = append(s.rules, ruleGPT2)
			}
		case "Digits":
			if n.IndividualDigits {
				s.rules = append(s.rules, ruleDigit)
			} else {
				s.rules = append(s.rules, ruleDigits)
			}
		case "Metaspace":
			replaced = true
			if err := n.metaspace(s); err != nil {
				return err
			}
		case "Split":
			if replaced && n.Pattern.String != nil && *n.Pattern.String == " " {
				continue // there are no spaces left
			}
			rule, err := n.splitRule()
			if err != nil {
				return err
			}
			s.rules = append(s.rules, rule)
		default:
			return fmt.Errorf("pre_tokenizer: node type %q is not supported", n.Type)
		}
	}
	if s.kind == byteLevel && replaced || s.kind == sentencePiece && !replaced {
		return fmt.Errorf("neither byte-level (pre_tokenizer ByteLevel) nor SentencePiece-like (spaces replaced by %s)", spaceMark)
	}
	return h.checkDecoder(s)
}

// readNormalizer reports whether spaces become ▁.
func readNormalizer(root *hfNode, s *spec) (replaced bool, err error) {
	for _, n := range root.flatten() {
		switch {
		case n.Type == "NFC" && !replaced && s.prefix == prefixNone:
			s.nfc = true
		case n.Type == "Prepend" && (n.Prepend == spaceMark || n.Prepend == " " && !replaced):
			s.prefix = prefixFragment
		case n.replaces(" ", spaceMark):
			replaced = true
		default:
			return false, fmt.Errorf("normalizer: node type %q (pattern, content or place) is not supported", n.Type)
		}
	}
	return replaced, nil
}

func (n *hfNode) metaspace(s *spec) error {
	if n.Replacement != spaceMark {
		return fmt.Errorf("pre_tokenizer: Metaspace with replacement %q, expected %q", n.Replacement, spaceMark)
	}
	scheme := n.PrependScheme
	if scheme == "" {
		scheme = "never"
		if isTrue(n.AddPrefixSpace, true) {
			scheme = "always"
		}
	}
	switch scheme {
	case "always":
		s.prefix = prefixUnlessSpace
	case "first":
		s.prefix = prefixFirst
	case "never":
	default:
		return fmt.Errorf("pre_tokenizer: Metaspace with prepend_scheme %q is not supported", scheme)
	}
	if isTrue(n.Split, true) {
		s.rules = append(s.rules, ruleMetaspace)
	}
	return nil
}

// splitRule recognizes a Split. Where every character belongs to a match, removing what does not match
// changes nothing.
func (n *hfNode) splitRule() (string, error) {
	if n.Pattern.Regex == nil {
		return "", fmt.Errorf("pre_tokenizer: Split at a string is not supported")
	}
	rule, ok := ruleOfPattern(*n.Pattern.Regex)
	if !ok {
		return "", fmt.Errorf("pre_tokenizer: Split with the unknown pattern %q", *n.Pattern.Regex)
	}
	covers := rule != ruleDigit && rule != ruleDigits && rule != ruleDigits3
	if n.Behavior == "Isolated" || covers && n.Behavior == "Removed" && n.Invert {
		return rule, nil
	}
	return "", fmt.Errorf("pre_tokenizer: Split with behavior %q (invert %t) is not supported", n.Behavior, n.Invert)
}

// template returns the tokens that the post-processor puts before and after a single text.
func (n *hfNode) template() (before, after []string, found bool, err error) {
	for _, p := range n.flatten() {
		switch p.Type {
		case "ByteLevel": // changes offsets only
		case "TemplateProcessing":
			if found {
				return nil, nil, false, fmt.Errorf("post_processor: more than one TemplateProcessing")
			}
			found = true
			inText := false
			for _, item := range p.Single {
				switch {
				case item.SpecialToken == nil:
					inText = true
				case inText:
					after = append(after, p.SpecialTokens[item.SpecialToken.ID].Tokens...)
				default:
					before = append(before, p.SpecialTokens[item.SpecialToken.ID].Tokens...)
				}
			}
		default:
			return nil, nil, false, fmt.Errorf("post_processor: node type %q is not supported", p.Type)
		}
	}
	return before, after, found, nil
}

// checkDecoder accepts the decoders that Decode implements.
func (h *hfTokenizer) checkDecoder(s *spec) error {
	nodes := h.Decoder.flatten()
	for _, n := range nodes {
		switch {
		case s.kind == byteLevel && n.Type == "ByteLevel":
		case s.kind == sentencePiece && (n.replaces(spaceMark, " ") || n.Type == "ByteFallback" || n.Type == "Fuse" || n.Type == "Strip" || n.Type == "Metaspace"):
		default:
			return fmt.Errorf("decoder: %s is not supported (node %q)", joinTypes(nodes), n.Type)
		}
	}
	return nil
}
