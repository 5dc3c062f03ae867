package predict

import "sort"

// Choice is a matrix that can be kept coded or decoded in device memory.
type Choice struct {
	Extra int64   // bytes that it takes more when decoded; may be negative
	Saved float64 // seconds per token that decoding it once saves; negative where the coded product is faster
}

// ChooseDecoded tells which matrices to decode with `spare` bytes beyond what all of them take coded: each byte where it saves
// most time. What costs time stays coded. spare is at most half of the largest int64.
func ChooseDecoded(choices []Choice, spare int64) []bool {
	decoded := make([]bool, len(choices))
	var order []int
	for i, c := range choices {
		switch {
		case c.Saved < 0:
		case c.Extra <= 0:
			decoded[i] = true
			spare -= c.Extra
		default:
			order = append(order, i)
		}
	}
	gain := func(i int) float64 { return choices[i].Saved / float64(choices[i].Extra) }
	sort.SliceStable(order, func(a, b int) bool { return gain(order[a]) > gain(order[b]) })
	for _, i := range order {
		if choices[i].Extra <= spare {
			decoded[i] = true
			spare -= choices[i].Extra
		}
	}
	return decoded
}
