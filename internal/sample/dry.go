package sample

import (
	"math"
	"strings"
)

// DRY ("don't repeat yourself") penalizes tokens that would go on with a repetition, the more the longer it is (p-e-w, 2024,
// text-generation-webui pull request 5677).
type DRY struct {
	Multiplier    float32 // Multiplier · Base^(length − AllowedLength) is subtracted from a logit; 0: off
	Base          float32
	AllowedLength int                   // shorter repetitions are not penalized
	Window        int                   // number of last tokens accepted that are looked at; 0: none
	Breakers      []string              // repetitions end at these texts
	Piece         func(id int32) string // a token's text; nil: there are no breakers
}

// DefaultDRY returns the usual settings, switched off.
func DefaultDRY() DRY {
	return DRY{Base: 1.75, AllowedLength: 2, Window: math.MaxInt, Breakers: []string{"\n", ":", "\"", "*"}}
}

func (o *DRY) on() bool { return o.Multiplier > 0 && o.Base >= 1 && o.Window > 0 }

// penalty of a token that goes on with a repetition of n tokens.
func (o *DRY) penalty(n int) float32 {
	p := float64(o.Multiplier) * math.Pow(float64(o.Base), float64(n-o.AllowedLength))
	return float32(min(p, math.MaxFloat32))
}

// breaks reports whether a breaker ends within text, which comes after before.
func (o *DRY) breaks(before, text string) bool {
	if o.Piece == nil {
		return false
	}
	for _, b := range o.Breakers {
		if b != "" && strings.Contains(before[max(0, len(before)-len(b)+1):]+text, b) {
			return true
		}
	}
	return false
}

// dry is what DRY knows of the text.
type dry struct {
	tokens  []int32
	fresh   int    // tokens after the last breaker
	text    string // the end of the text, as long as the longest breaker
	lengths []int
	found   map[int32]int
}

func (d *dry) accept(o *DRY, id int32) {
	if !o.on() {
		return
	}
	if len(d.tokens) >= 2*min(o.Window, math.MaxInt/4) {
		d.tokens = append(d.tokens[:0], d.tokens[len(d.tokens)-o.Window+1:]...)
	}
	d.tokens = append(d.tokens, id)
	d.fresh++
	if o.Piece == nil {
		return
	}
	piece := o.Piece(id)
	if o.breaks(d.text, piece) {
		d.fresh = 0
	}
	longest := 0
	for _, b := range o.Breakers {
		longest = max(longest, len(b))
	}
	d.text += piece
	d.text = d.text[max(0, len(d.text)-longest):]
}

// repeats returns the tokens after which the text would end in a repetition, and how long it is without them.
func (d *dry) repeats(o *DRY) map[int32]int {
	if !o.on() {
		return nil
	}
	t := d.tokens[max(0, len(d.tokens)-min(o.Window, math.MaxInt/4)):]
	if d.found == nil {
		d.found = map[int32]int{}
	}
	clear(d.found)
	least := max(o.AllowedLength, 1)
	if d.fresh < least || len(t) <= least {
		return d.found
	}
	// lengths[i]: how many tokens before position len(t)-i equal those at the end of the text, by the Z algorithm on the reversed
	// text.
	n := len(t)
	at := func(i int) int32 { return t[n-1-i] }
	d.lengths = append(d.lengths[:0], make([]int, n)...)
	left, right := 0, 0
	for i := 1; i < n; i++ {
		z := 0
		if i < right {
			z = min(right-i, d.lengths[i-left])
		}
		for i+z < n && at(z) == at(i+z) {
			z++
		}
		if i+z > right {
			left, right = i, i+z
		}
		d.lengths[i] = z
		if z = min(z, d.fresh); z >= least {
			next := at(i - 1)
			d.found[next] = max(d.found[next], z)
		}
	}
	for id := range d.found {
		if o.Piece != nil && o.breaks("", o.Piece(id)) {
			delete(d.found, id)
		}
	}
	return d.found
}
