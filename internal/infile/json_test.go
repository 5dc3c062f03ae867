package infile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJSONOfManySmallObjectsIsRefused(t *testing.T) {
	for _, text := range []string{`{}`, `[1,2,{"a":"{[\"{{"}]`, "[" + strings.Repeat(`["a","b"],`, 100_000) + "0]",
		`["` + strings.Repeat("{[", 100_000) + `"]`, `["\\",` + strings.Repeat(`"[",`, 50_000) + `1]`} {
		require.NoError(t, CheckJSON([]byte(text)))
	}
	for _, text := range []string{"[" + strings.Repeat("{},", 10_000) + "0]", strings.Repeat("[", 10_000),
		`["\"",` + strings.Repeat("[],", 10_000), "[" + strings.Repeat("1,", 200_000) + "1]"} {
		require.ErrorContains(t, CheckJSON([]byte(text)), "too many small objects")
	}
}
