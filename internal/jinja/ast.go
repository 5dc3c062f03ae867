package jinja

// node is a statement or expression. line is where it begins in the source.
type (
	expr interface{ at() int }
	stmt interface{ at() int }
	line int
)

func (l line) at() int { return int(l) }

// Expressions.
type (
	constExpr struct {
		line
		value Value
	}
	nameExpr struct {
		line
		name string
	}
	attrExpr struct {
		line
		object expr
		name   string
	}
	itemExpr struct {
		line
		object, index expr
	}
	sliceExpr struct { // the index of an itemExpr; parts may be nil
		line
		start, stop, step expr
	}
	listExpr struct {
		line
		items []expr
		tuple bool
	}
	dictExpr struct {
		line
		keys, values []expr
	}
	callExpr struct {
		line
		function expr
		args     callArgs
	}
	filterExpr struct {
		line
		input expr // nil: the text of a block
		name  string
		args  callArgs
	}
	testExpr struct {
		line
		input expr
		name  string
		args  callArgs
	}
	unaryExpr struct {
		line
		op      string // "not", "-", "+"
		operand expr
	}
	binaryExpr struct {
		line
		op          string // arithmetic, "and", "or"
		left, right expr
	}
	concatExpr struct {
		line
		items []expr
	}
	compareExpr struct {
		line
		first expr
		ops   []string // ==, !=, <, <=, >, >=, in, not in
		rest  []expr
	}
	condExpr struct {
		line
		test, yes, no expr // no may be nil
	}
)

// callArgs are the arguments of a call, a filter or a test.
type callArgs struct {
	positional       []expr
	names            []string // of keywords
	values           []expr
	splat, dictSplat expr // *x, **x; may be nil
}

// Statements.
type (
	textStmt struct {
		line
		text string
	}
	outputStmt struct {
		line
		value expr
	}
	ifStmt struct {
		line
		tests  []expr // one per branch; the last branch may have none
		bodies [][]stmt
	}
	forStmt struct {
		line
		target           target
		iterable, filter expr // filter may be nil
		recursive        bool
		body, otherwise  []stmt
	}
	setStmt struct {
		line
		target target
		value  expr
	}
	setBlockStmt struct {
		line
		target target
		filter *filterExpr // may be nil
		body   []stmt
	}
	withStmt struct {
		line
		targets []target
		values  []expr
		body    []stmt
	}
	macroStmt struct {
		line
		name string
		*signature
	}
	callStmt struct { // {% call %} and {% generation %}
		line
		caller *signature
		call   *callExpr // nil: the body as it is
	}
	filterStmt struct {
		line
		filter *filterExpr
		body   []stmt
	}
	loopControl struct {
		line
		control control
	}
)

// signature is what a macro takes and does.
type signature struct {
	params   []string
	defaults []expr // of the last parameters
	body     []stmt

	usesCaller, usesVarargs, usesKwargs bool
}

// target is what an assignment writes to: a name, an attribute of a namespace, or several targets.
type target struct {
	name      string
	attribute string   // of the namespace name; otherwise ""
	items     []target // of a tuple; otherwise nil
}
