package tokenizer

import (
	"fmt"
	"slices"
)

// hfNode is a normalizer, pre-tokenizer, post-processor or decoder of tokenizer.json, with the fields of all kinds.
type hfNode struct {
	Type          string    `json:"type"`
	Normalizers   []*hfNode `json:"normalizers"`
	PreTokenizers []*hfNode `json:"pretokenizers"`
	Processors    []*hfNode `json:"processors"`
	Decoders      []*hfNode `json:"decoders"`

	Prepend string `json:"prepend"`
	Content string `json:"content"`

	CharsMap   []byte `json:"precompiled_charsmap"`
	StripLeft  bool   `json:"strip_left"`
	StripRight bool   `json:"strip_right"`
	Pattern    struct {
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
		if n.Type == "Split" && replaced && n.Pattern.String != nil && *n.Pattern.String == " " {
			continue // there are no spaces left
		}
		read := preTokenizers[n.Type]
		if read == nil {
			return fmt.Errorf("pre_tokenizer: node type %q is not supported", n.Type)
		}
		if err := read(n, s, i == 0); err != nil {
			return err
		}
		replaced = replaced || n.Type == "Metaspace"
	}
	if s.kind == byteLevel && replaced || s.kind != byteLevel && !replaced {
		return fmt.Errorf("neither byte-level (pre_tokenizer ByteLevel) nor SentencePiece-like (spaces replaced by %s)", spaceMark)
	}
	return h.checkDecoder(s)
}

// preTokenizers take over a node of the pre-tokenizer, by its type; first tells that no node comes before it.
var preTokenizers = map[string]func(n *hfNode, s *spec, first bool) error{
	"ByteLevel":       (*hfNode).byteLevel,
	"Digits":          (*hfNode).digits,
	"Metaspace":       (*hfNode).metaspace,
	"Split":           (*hfNode).split,
	"WhitespaceSplit": (*hfNode).words,
}

func (n *hfNode) byteLevel(s *spec, first bool) error {
	if s.kind == unigram {
		return fmt.Errorf("pre_tokenizer: ByteLevel with a model of type Unigram is not supported")
	}
	s.kind = byteLevel
	if isTrue(n.AddPrefixSpace, true) {
		if !first {
			return fmt.Errorf("pre_tokenizer: ByteLevel with add_prefix_space after another node is not supported")
		}
		s.prefix = prefixUnlessSpace
	}
	if isTrue(n.UseRegex, true) {
		s.rules = append(s.rules, ruleGPT2)
	}
	return nil
}

func (n *hfNode) digits(s *spec, _ bool) error {
	if n.IndividualDigits {
		s.rules = append(s.rules, ruleDigit)
	} else {
		s.rules = append(s.rules, ruleDigits)
	}
	return nil
}

func (n *hfNode) words(s *spec, first bool) error {
	if s.kind != unigram || !first {
		return fmt.Errorf("pre_tokenizer: WhitespaceSplit is supported first and with Unigram only")
	}
	s.steps = append(s.steps, stepWords)
	return nil
}

func (n *hfNode) split(s *spec, _ bool) error {
	rule, err := n.splitRule()
	if err != nil {
		return err
	}
	s.rules = append(s.rules, rule)
	return nil
}

// readNormalizer reports whether spaces become ▁.
func readNormalizer(root *hfNode, s *spec) (replaced bool, err error) {
	for _, n := range root.flatten() {
		if n.replaces(" ", spaceMark) {
			replaced = true
			continue
		}
		if n.Type == "Prepend" && (n.Prepend == spaceMark || n.Prepend == " " && !replaced) {
			s.prefix = prefixFragment
			continue
		}
		// What changes text comes before spaces are marked.
		if replaced || s.prefix != prefixNone || !n.step(s) {
			return false, fmt.Errorf("normalizer: node type %q (pattern, content or place) is not supported", n.Type)
		}
	}
	return replaced, nil
}

// unicodeSteps are the steps of the normalizer's nodes without parameters.
var unicodeSteps = map[string]string{"NFC": stepNFC, "NFD": stepNFD, "NFKC": stepNFKC, "NFKD": stepNFKD, "Lowercase": stepLower}

// step takes over a node of the normalizer that changes text, if it is supported.
func (n *hfNode) step(s *spec) bool {
	switch {
	case unicodeSteps[n.Type] != "":
		s.steps = append(s.steps, unicodeSteps[n.Type])
	case n.Type == "Precompiled" && s.charsMap == nil:
		s.steps, s.charsMap = append(s.steps, stepGraphemes), n.CharsMap
	case n.Type == "Strip":
		if n.StripLeft {
			s.steps = append(s.steps, stepStripL)
		}
		if n.StripRight {
			s.steps = append(s.steps, stepStripR)
		}
	case n.collapses():
		s.steps = append(s.steps, stepCollapse)
	case n.Type == "Replace" && n.Pattern.String != nil:
		s.steps = append(s.steps, stepReplace, *n.Pattern.String, n.Content)
	default:
		return false
	}
	return true
}

// collapses reports whether n makes one space of several.
func (n *hfNode) collapses() bool {
	spaces := n.Type == "Replace" && n.Pattern.Regex != nil && *n.Pattern.Regex == " {2,}"
	return spaces && (n.Content == " " || n.Content == spaceMark)
}

func (n *hfNode) metaspace(s *spec, _ bool) error {
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
	joins := []string{"ByteFallback", "Fuse", "Strip", "Metaspace"}
	for _, n := range nodes {
		switch {
		case s.kind == byteLevel && n.Type == "ByteLevel":
		case s.kind != byteLevel && (n.replaces(spaceMark, " ") || slices.Contains(joins, n.Type)):
		default:
			return fmt.Errorf("decoder: %s is not supported (node %q)", joinTypes(nodes), n.Type)
		}
	}
	return nil
}
