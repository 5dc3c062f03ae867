package serve

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// sampling are the fields by which a request chooses tokens, under the names of OpenAI, llama.cpp and ollama. Absent ones have
// the defaults of sample.DefaultOptions.
type sampling struct {
	Temperature      *float64        `json:"temperature"`
	TopK             *int            `json:"top_k"`
	TopP             *float64        `json:"top_p"`
	MinP             *float64        `json:"min_p"`
	Typical          *float64        `json:"typical_p"`
	XTCProbability   *float64        `json:"xtc_probability"`
	XTCThreshold     *float64        `json:"xtc_threshold"`
	Mirostat         int             `json:"mirostat"`
	MirostatTau      *float64        `json:"mirostat_tau"`
	MirostatEta      *float64        `json:"mirostat_eta"`
	RepeatPenalty    *float64        `json:"repeat_penalty"`
	RepeatLastN      *int            `json:"repeat_last_n"`
	PresencePenalty  *float64        `json:"presence_penalty"`
	FrequencyPenalty *float64        `json:"frequency_penalty"`
	DRYMultiplier    *float64        `json:"dry_multiplier"`
	DRYBase          *float64        `json:"dry_base"`
	DRYAllowedLength *int            `json:"dry_allowed_length"`
	DRYLastN         *int            `json:"dry_penalty_last_n"`
	DRYBreakers      []string        `json:"dry_sequence_breakers"`
	Seed             *int64          `json:"seed"`
	LogitBias        logitBias       `json:"logit_bias"`
	IgnoreEOS        bool            `json:"ignore_eos"`
	Grammar          string          `json:"grammar"`     // GBNF, as llama.cpp has it
	JSONSchema       json.RawMessage `json:"json_schema"` // likewise
}

// maxWindow bounds how many tokens a request's penalties look at.
const maxWindow = 1 << 16

// options checks the fields and returns them as the sampler takes them. A negative PenaltyWindow stands for the context.
func (f *sampling) options() (sample.Options, error) {
	o := sample.DefaultOptions()
	o.Temperature = 1 // the default of OpenAI's and Anthropic's interfaces
	if err := f.floats(&o); err != nil {
		return o, err
	}
	if f.TopP != nil {
		o.TopP = sample.Nucleus(*f.TopP) // 0 is the best token, not all of them
	}
	if o.Mirostat.Version = f.Mirostat; f.Mirostat < 0 || f.Mirostat > 2 {
		return o, badRequest("mirostat", "mirostat: %d, expected 0 (off), 1 or 2", f.Mirostat)
	}
	for _, v := range []struct {
		name      string
		in        *int
		low, high int
		out       *int
	}{
		{"top_k", f.TopK, 0, 1 << 20, &o.TopK}, {"repeat_last_n", f.RepeatLastN, -1, maxWindow, &o.PenaltyWindow},
		{"dry_allowed_length", f.DRYAllowedLength, 0, maxWindow, &o.DRY.AllowedLength},
		{"dry_penalty_last_n", f.DRYLastN, -1, maxWindow, &o.DRY.Window},
	} {
		if v.in == nil {
			continue
		}
		if *v.in < v.low || *v.in > v.high {
			return o, badRequest(v.name, "%s: %d, expected %d to %d", v.name, *v.in, v.low, v.high)
		}
		*v.out = *v.in
	}
	if o.DRY.Window < 0 {
		o.DRY.Window = math.MaxInt
	}
	if f.DRYBreakers != nil {
		if err := stops(f.DRYBreakers).check("dry_sequence_breakers"); err != nil {
			return o, err
		}
		o.DRY.Breakers = f.DRYBreakers
	}
	if f.Seed != nil && *f.Seed >= 0 {
		o.Seed = uint64(*f.Seed)
	} else {
		o.Seed = rand.Uint64()
	}
	return o, nil
}

// floats checks and takes over the fields that are fractions.
func (f *sampling) floats(o *sample.Options) error {
	for _, v := range []struct {
		name      string
		in        *float64
		low, high float64
		out       *float32
	}{
		{"temperature", f.Temperature, 0, 100, &o.Temperature}, {"top_p", f.TopP, 0, 1, &o.TopP}, {"min_p", f.MinP, 0, 1, &o.MinP},
		{"typical_p", f.Typical, 0, 1, &o.Typical},
		{"xtc_probability", f.XTCProbability, 0, 1, &o.XTCProbability}, {"xtc_threshold", f.XTCThreshold, 0, 1, &o.XTCThreshold},
		{"mirostat_tau", f.MirostatTau, 0, 100, &o.Mirostat.Tau}, {"mirostat_eta", f.MirostatEta, 0, 10, &o.Mirostat.Eta},
		{"repeat_penalty", f.RepeatPenalty, 0, 100, &o.RepeatPenalty},
		{"presence_penalty", f.PresencePenalty, -2, 2, &o.PresencePenalty},
		{"frequency_penalty", f.FrequencyPenalty, -2, 2, &o.FrequencyPenalty},
		{"dry_multiplier", f.DRYMultiplier, 0, 100, &o.DRY.Multiplier}, {"dry_base", f.DRYBase, 1, 100, &o.DRY.Base},
	} {
		if v.in == nil {
			continue
		}
		if !(*v.in >= v.low && *v.in <= v.high) {
			return badRequest(v.name, "%s: %g, expected %g to %g", v.name, *v.in, v.low, v.high)
		}
		*v.out = float32(*v.in)
	}
	return nil
}

// grammar returns what llama.cpp's fields ask for.
func (f *sampling) grammar() (string, func() (*grammar.Grammar, error)) {
	switch {
	case f.Grammar != "":
		return "gbnf:" + f.Grammar, func() (*grammar.Grammar, error) { return grammar.ParseGBNF(f.Grammar) }
	case len(f.JSONSchema) > 0 && string(f.JSONSchema) != "null":
		return "schema:" + string(f.JSONSchema), func() (*grammar.Grammar, error) { return grammar.FromSchema(f.JSONSchema) }
	}
	return "", nil
}

// logitBias is the field logit_bias: an object of token ids and numbers, as OpenAI has it, or a list of pairs, as llama.cpp has
// it, whose first is a token id or a text (all of whose tokens are meant) and whose second a number or false.
type logitBias []biasEntry

type biasEntry struct {
	id   int
	text string // instead of id, if it is not empty
	bias float64
}

const maxBiases = 1024

// UnmarshalJSON implements json.Unmarshaler.
func (l *logitBias) UnmarshalJSON(b []byte) error {
	*l = nil
	var byID map[string]float64
	if json.Unmarshal(b, &byID) == nil {
		for key, bias := range byID {
			id, err := strconv.Atoi(key)
			if err != nil {
				return badRequest("logit_bias", "logit_bias: %q is not the number of a token", key)
			}
			*l = append(*l, biasEntry{id: id, bias: bias})
		}
		return nil
	}
	var pairs [][2]json.RawMessage
	if err := json.Unmarshal(b, &pairs); err != nil {
		return badRequest("logit_bias", "logit_bias: expected an object of tokens and numbers, or a list of pairs")
	}
	for i, p := range pairs {
		var e biasEntry
		if json.Unmarshal(p[0], &e.id) != nil && (json.Unmarshal(p[0], &e.text) != nil || e.text == "") {
			return badRequest("logit_bias", "logit_bias[%d]: expected a token's number or a text first", i)
		}
		if string(p[1]) == "false" {
			e.bias = math.Inf(-1)
		} else if err := json.Unmarshal(p[1], &e.bias); err != nil || len(p[1]) == 0 {
			return badRequest("logit_bias", "logit_bias[%d]: expected a number or false second", i)
		}
		*l = append(*l, e)
	}
	return nil
}

// of returns the biases of a model's tokens. Those of OpenAI go from −100, which excludes a token, to 100.
func (l logitBias) of(t *tokenizer.Tokenizer) (map[int32]float32, error) {
	if len(l) > maxBiases {
		return nil, fmt.Errorf("logit_bias: %d tokens; at most %d are accepted", len(l), maxBiases)
	}
	var out map[int32]float32
	for _, e := range l {
		ids := []int32{int32(e.id)}
		if e.text != "" {
			ids = t.Encode(e.text, false, false)
		} else if e.id < 0 || e.id >= t.NVocab() {
			return nil, fmt.Errorf("logit_bias: %d is not a token of the model (0 to %d)", e.id, t.NVocab()-1)
		}
		if e.bias == -100 {
			e.bias = math.Inf(-1)
		}
		if !(e.bias >= -100 && e.bias <= 100) && !math.IsInf(e.bias, -1) {
			return nil, fmt.Errorf("logit_bias: %g for a token, expected -100 to 100", e.bias)
		}
		for _, id := range ids {
			if out == nil {
				out = map[int32]float32{}
			}
			out[id] = float32(e.bias)
		}
	}
	return out, nil
}
