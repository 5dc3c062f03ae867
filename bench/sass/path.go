package main

import (
	"sort"
	"strings"
)

// betweenLoops returns the instructions that a thread executes at least from the end of a pass through the main loop l to the
// beginning of the next one that a loop around it makes: a row's beginning and end. Loops on the way are passed once. nil: there
// is no way.
func betweenLoops(code []instruction, l loop) []instruction {
	const unseen = -1
	from := make([]int, len(code))
	for i := range from {
		from[i] = unseen
	}
	queue := []int{}
	visit := func(i, by int) {
		if i < len(code) && from[i] == unseen {
			from[i] = by
			queue = append(queue, i)
		}
	}
	visit(l.last+1, l.last)
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		if i == l.first {
			break
		}
		for _, next := range successors(code, i) {
			visit(next, i)
		}
	}
	if from[l.first] == unseen {
		return nil
	}
	var path []instruction
	for i := from[l.first]; i != l.last; i = from[i] {
		path = append(path, code[i])
	}
	return path
}

// successors returns which instructions may follow instruction i. SYNC and BRK go to where the SSY or PBK around them says.
func successors(code []instruction, i int) []int {
	in := code[i]
	base, _, _ := strings.Cut(in.op, ".")
	target := uint64(0)
	switch base {
	case "BRA", "CALL":
		if in.op == "BRA.DIV" {
			return []int{i + 1} // where lanes have parted
		}
		target = in.target
	case "SYNC", "BRK":
		opener := map[string]string{"SYNC": "SSY", "BRK": "PBK"}[base]
		for k := i - 1; k >= 0 && target == 0; k-- {
			if code[k].op == opener && code[k].target > in.address {
				target = code[k].target
			}
		}
	case "EXIT", "RET":
	default:
		return []int{i + 1}
	}
	var next []int
	if target != 0 { // a target may be the control word in front of an instruction
		next = append(next, sort.Search(len(code), func(k int) bool { return code[k].address >= target }))
	}
	if in.conditional {
		next = append(next, i+1)
	}
	return next
}
