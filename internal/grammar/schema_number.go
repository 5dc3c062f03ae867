package grammar

import (
	"encoding/json"
	"math/big"
	"strings"
)

const (
	maxDigits   = 16 // of the integer part and of the fraction, where the schema names no larger bound
	maxExponent = 400
	maxModulus  = 500 // largest multipleOf for integers, which takes a place per remainder
)

// numberText is any JSON number of at most 16 digits on each side of the point, and an exponent of at most two.
func numberText() expr {
	digit := span('0', '9')
	return seq{integerText(), opt(seq{literal("."), rep{digit, 1, maxDigits}}),
		opt(seq{class{{'e', 'e'}, {'E', 'E'}}, opt(class{{'+', '+'}, {'-', '-'}}), rep{digit, 1, 2}})}
}

func integerText() expr {
	return seq{opt(literal("-")), alt{literal("0"), seq{span('1', '9'), rep{span('0', '9'), 0, maxDigits - 1}}}}
}

// rational returns a JSON number exactly.
func rational(v any, path string) (*big.Rat, error) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, at(path, "expected a number")
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(n.String()), "e"); ok && len(strings.TrimLeft(exponent, "+-0")) > 3 {
		return nil, at(path, "number %s is out of range", n)
	}
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		return nil, at(path, "expected a number")
	}
	if r.Num().BitLen() > 4*maxExponent || r.Denom().BitLen() > 4*maxExponent {
		return nil, at(path, "number %s is out of range", n)
	}
	return r, nil
}

// bound is one end of a range.
type bound struct {
	value *big.Rat // nil: none
	open  bool     // the value itself is outside
}

// number returns the expression of a number's or an integer's schema.
func number(o *object, integer bool, path string) (expr, error) {
	low, err := bounds(o, "minimum", "exclusiveMinimum", 1, path)
	if err != nil {
		return nil, err
	}
	high, err := bounds(o, "maximum", "exclusiveMaximum", -1, path)
	if err != nil {
		return nil, err
	}
	places := maxDigits
	if v, ok := o.values["multipleOf"]; ok {
		step, err := rational(v, path+"/multipleOf")
		if err != nil {
			return nil, err
		}
		if step.Sign() <= 0 {
			return nil, at(path+"/multipleOf", "expected a number above 0")
		}
		switch places = decimalPlaces(step); {
		case step.IsInt() && places != 0:
			return multiples(step.Num(), low, high, path)
		case places < 0:
			return nil, at(path+"/multipleOf", "of a number that is neither whole nor 0.1, 0.01 … is not supported")
		case places == 0:
			integer = true
		}
	}
	if low.value == nil && high.value == nil {
		switch {
		case integer:
			return integerText(), nil
		case places < maxDigits:
			return seq{integerText(), opt(seq{literal("."), rep{span('0', '9'), 1, places}})}, nil
		}
		return numberText(), nil
	}
	if integer {
		low, high, places = wholeBound(low, 1), wholeBound(high, -1), 0
	}
	return inRange(low, high, places, path)
}

// bounds returns the tighter of an including and an excluding bound; sign is 1 for lower ones.
func bounds(o *object, including, excluding string, sign int, path string) (bound, error) {
	var out bound
	for _, k := range []string{including, excluding} {
		v, ok := o.values[k]
		if !ok {
			continue
		}
		r, err := rational(v, path+"/"+k)
		if err != nil {
			return out, err
		}
		if out.value != nil && r.Cmp(out.value)*sign < 0 {
			continue
		}
		out = bound{r, k == excluding}
	}
	return out, nil
}

// decimalPlaces returns k if r is 10 to the power of -k, k ≤ maxDigits, and -1 if not.
func decimalPlaces(r *big.Rat) int {
	power := big.NewRat(1, 1)
	for k := 0; k <= maxDigits; k++ {
		if r.Cmp(power) == 0 {
			return k
		}
		power.Quo(power, big.NewRat(10, 1))
	}
	return -1
}

// wholeBound returns the outermost integer within a bound; sign is 1 for lower bounds.
func wholeBound(b bound, sign int64) bound {
	if b.value == nil {
		return b
	}
	q, m := new(big.Int).DivMod(b.value.Num(), b.value.Denom(), new(big.Int)) // floor
	switch {
	case m.Sign() == 0 && b.open:
		q.Add(q, big.NewInt(sign))
	case m.Sign() != 0 && sign > 0:
		q.Add(q, big.NewInt(1))
	}
	return bound{new(big.Rat).SetInt(q), false}
}

// inRange returns the numbers from low to high with at most that many decimal places, without exponents.
func inRange(low, high bound, places int, path string) (expr, error) {
	var out alt
	if negative(low) {
		near, far := mirrored(low, high, places)
		e, err := magnitudes(near, far, places, path)
		if err != nil {
			return nil, err
		}
		out = append(out, seq{literal("-"), e})
	}
	if high.value == nil || high.value.Sign() >= 0 {
		near := low
		if negative(low) {
			near = bound{new(big.Rat), false}
		}
		e, err := magnitudes(near, high, places, path)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if low.value != nil && high.value != nil {
		if c := low.value.Cmp(high.value); c > 0 || c == 0 && (low.open || high.open) {
			return nil, at(path, "the minimum is above the maximum")
		}
	}
	return out, nil
}

// negative reports whether numbers below zero satisfy a lower bound.
func negative(low bound) bool { return low.value == nil || low.value.Sign() < 0 }

// mirrored returns the range of the magnitudes of the negative numbers in low … high.
func mirrored(low, high bound, places int) (near, far bound) {
	near = bound{new(big.Rat), true}
	if high.value != nil && high.value.Sign() < 0 {
		near = bound{new(big.Rat).Neg(high.value), high.open}
	}
	if low.value != nil {
		far = bound{new(big.Rat).Neg(low.value), low.open}
	}
	if places == 0 && near.value.Sign() == 0 {
		near = bound{big.NewRat(1, 1), false}
	}
	return near, far
}

// digitRange writes decimal numbers ≥ 0 between two bounds, digit by digit, remembering whether they still equal a bound's
// digits.
type digitRange struct {
	low, high         bound
	lowInt, lowFrac   string
	highInt, highFrac string
	length, places    int
}

func magnitudes(low, high bound, places int, path string) (expr, error) {
	r := digitRange{low: low, high: high, places: places}
	var exact bool
	if r.lowInt, r.lowFrac, exact = decimal(low.value); !exact {
		return nil, at(path, "a bound of more than %d decimal places is not supported", 2*maxDigits)
	}
	last := max(maxDigits, len(r.lowInt))
	if high.value != nil {
		if r.highInt, r.highFrac, exact = decimal(high.value); !exact {
			return nil, at(path, "a bound of more than %d decimal places is not supported", 2*maxDigits)
		}
		last = len(r.highInt)
	}
	if places > 0 && places == maxDigits {
		r.places = max(places, len(r.lowFrac)+1, len(r.highFrac)+1)
	}
	var out alt
	for r.length = len(r.lowInt); r.length <= last; r.length++ {
		out = append(out, r.integer(0, r.length == len(r.lowInt), high.value != nil && r.length == len(r.highInt)))
	}
	return out, nil
}

// decimal returns the digits of a number ≥ 0 before and after the point, the latter without zeros at the end.
func decimal(r *big.Rat) (whole, fraction string, exact bool) {
	text := r.FloatString(2 * maxDigits)
	back, _ := new(big.Rat).SetString(text)
	whole, fraction, _ = strings.Cut(text, ".")
	return whole, strings.TrimRight(fraction, "0"), back != nil && back.Cmp(r) == 0
}

// digits returns the alternatives for the next digit: those strictly between the bounds go on with free, bounds with tight.
func digits(lo, hi byte, low, high bool, tight func(low, high bool) expr, free expr) expr {
	var out alt
	a, b := lo, hi
	if low {
		if a <= b {
			out = append(out, seq{span(rune(a), rune(a)), tight(true, high && a == b)})
		}
		a++
	}
	if high {
		if a <= b {
			out = append(out, seq{span(rune(b), rune(b)), tight(false, true)})
		}
		b--
	}
	if a <= b && a >= '0' && b <= '9' {
		out = append(out, seq{span(rune(a), rune(b)), free})
	}
	return out
}

// integer returns the rest of the integer part from digit i on. low and high tell that all digits so far equal that bound's.
func (r *digitRange) integer(i int, low, high bool) expr {
	if i == r.length {
		return r.fraction(low, high)
	}
	lo, hi := byte('0'), byte('9')
	if i == 0 && r.length > 1 {
		lo = '1'
	}
	if low {
		lo = r.lowInt[i]
	}
	if high {
		hi = r.highInt[i]
	}
	free := seq{rep{span('0', '9'), r.length - i - 1, r.length - i - 1}, r.fraction(false, false)}
	return digits(lo, hi, low, high, func(low, high bool) expr { return r.integer(i+1, low, high) }, free)
}

func (r *digitRange) fraction(low, high bool) expr {
	out := alt{}
	if r.mayStop(0, low, high) {
		out = append(out, seq{})
	}
	if r.places > 0 {
		out = append(out, seq{literal("."), r.decimals(0, low, high)})
	}
	return out
}

// mayStop reports whether a number that equals the bounds so far may end after i decimals.
func (r *digitRange) mayStop(i int, low, high bool) bool {
	if low && (len(r.lowFrac) > i || r.low.open) {
		return false
	}
	return !high || len(r.highFrac) > i || !r.high.open
}

func (r *digitRange) decimals(i int, low, high bool) expr {
	if !low && !high {
		return rep{span('0', '9'), max(0, 1-i), r.places - i}
	}
	out := alt{}
	if i > 0 && r.mayStop(i, low, high) {
		out = append(out, seq{})
	}
	if i == r.places {
		return out
	}
	lo, hi := byte('0'), byte('9')
	if low && i < len(r.lowFrac) {
		lo = r.lowFrac[i]
	}
	if high {
		hi = '0'
		if i < len(r.highFrac) {
			hi = r.highFrac[i]
		}
	}
	free := rep{span('0', '9'), 0, r.places - i - 1}
	return append(out, digits(lo, hi, low, high, func(low, high bool) expr { return r.decimals(i+1, low, high) }, free))
}

// multiples returns the multiples of an integer. Within two bounds they are listed; without any, remainders are counted.
func multiples(step *big.Int, low, high bound, path string) (expr, error) {
	if !step.IsInt64() || step.Int64() > maxModulus {
		return nil, at(path+"/multipleOf", "above %d is not supported", maxModulus)
	}
	m := step.Int64()
	low, high = wholeBound(low, 1), wholeBound(high, -1)
	switch {
	case low.value == nil && high.value == nil:
		return seq{opt(literal("-")), remainders(int(m))}, nil
	case low.value == nil || high.value == nil:
		return nil, at(path+"/multipleOf", "together with one bound is not supported: give both")
	}
	first := new(big.Int).Div(new(big.Int).Add(low.value.Num(), big.NewInt(m-1)), step)
	last := new(big.Int).Div(high.value.Num(), step)
	n := new(big.Int).Sub(last, first)
	if n.Sign() < 0 {
		return nil, at(path, "allows no value")
	}
	if !n.IsInt64() || n.Int64() >= maxRepeat {
		return nil, at(path+"/multipleOf", "of more than %d values within the bounds is not supported", maxRepeat)
	}
	var out alt
	for k := first; k.Cmp(last) <= 0; k = new(big.Int).Add(k, big.NewInt(1)) {
		out = append(out, literal(new(big.Int).Mul(k, step).String()))
	}
	return out, nil
}

// byRemainder is an expression that compile knows: digits of multiples of m, without zeros in front.
type byRemainder struct{ m int }

func remainders(m int) expr { return byRemainder{m} }

// remainder adds a node per remainder: after the digits of n, the place is that of n mod m.
func (c *compiler) remainder(from int32, m int) int32 {
	end := c.node()
	at := make([]int32, m)
	for i := range at {
		at[i] = c.node()
	}
	for r := range m {
		for d := range 10 {
			c.edge(at[r], byteSpan{byte('0' + d), byte('0' + d)}, at[(10*r+d)%m])
		}
	}
	for d := 1; d < 10; d++ {
		c.edge(from, byteSpan{byte('0' + d), byte('0' + d)}, at[d%m])
	}
	c.edge(from, byteSpan{'0', '0'}, end)
	c.free(at[0], end)
	return end
}
