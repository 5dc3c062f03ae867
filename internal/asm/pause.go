package main

import (
	. "github.com/mmcloughlin/avo/build"
)

// pause generates what a thread does between two looks at a variable.
func pause() {
	TEXT("pause", NOSPLIT, "func()")
	Doc("pause leaves the core's execution units to its other thread for a moment, about 50 ns on recent processors.")
	PAUSE()
	RET()
}
