package cli

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestControlCharactersAreEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":          "plain\ttext\n",
		"\x1b]0;title\a":         `\x1b]0;title\x07`,
		"over\rwritten":          `over\x0dwritten`,
		"\u009b2J":               `\u009b2J`,
		"é日本\x7f":                `é日本\x7f`,
		"file\u202egpj.exe":      `file\u202egpj.exe`,
		"broken \xff\xfe stays.": "broken \xff\xfe stays.",
	} {
		var out bytes.Buffer
		n, err := printable{&out}.Write([]byte(in))
		require.NoError(t, err)
		assert.Equal(t, len(in), n)
		assert.Equal(t, want, out.String())
	}
}

func TestErrorsAndReportsHaveNoControlCharacters(t *testing.T) {
	o := ellm("verify", "\x1b[2Jnowhere.ellm")
	assert.Equal(t, exitFailure, o.code)
	assert.NotContains(t, o.err, "\x1b")
	assert.Contains(t, o.err, `\x1b[2Jnowhere.ellm`)
}
