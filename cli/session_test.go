package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/session"
)

func TestSessionsGoOnWithTheirCache(t *testing.T) {
	model := compressed(t, "--lossless")
	text := strings.Repeat("// Reset resets the state. ", 12)
	for _, kv := range []string{engine.KVF16, engine.KVQ8} {
		file := filepath.Join(t.TempDir(), "talk")
		run := func(prompt string, options ...string) outcome {
			return mustRun(t, append([]string{"run", model, "--device", "cpu", "--raw", "--ignore-eos", "-n", "20", "--temp", "0",
				"--kv-type", kv, "--speculate", "off", "-p", prompt}, options...)...)
		}
		run(text, "--session", file)
		f, err := session.Open(file)
		require.NoError(t, err)
		assert.NotZero(t, f.Pages)
		assert.Equal(t, len(f.Tokens)-1, f.Covered, "the last token was chosen, not computed")
		bare := file + " without cache"
		require.NoError(t, session.Save(bare, &f.Conversation, nil, nil))
		assert.NoError(t, f.Close())
		second, computed := run(" and", "--session", file), run(" and", "--session", bare)
		assert.Regexp(t, `prefill: [23] tokens, .*\([0-9]{2,} more from the cache\)`, second.err, kv)
		assert.NotContains(t, computed.err, "from the cache")
		assert.Equal(t, computed.out, second.out, kv)
		// Another kind of cache cannot be taken over; the conversation can.
		other := map[string]string{engine.KVF16: engine.KVQ8, engine.KVQ8: engine.KVF16}[kv]
		third := run(" the", "--session", file, "--kv-type", other)
		assert.Contains(t, third.err, "computed again")
	}
}

func TestSessionsOfChats(t *testing.T) {
	model, file := compressed(t, "--lossless"), filepath.Join(t.TempDir(), "talk")
	run := func(options ...string) outcome {
		return ellm(append([]string{"run", model, "--device", "cpu", "-n", "8", "--temp", "0", "--session", file}, options...)...)
	}
	require.Zero(t, run("-p", "Hello", "--system", "Be brief.").code)
	o := run("-p", "And now?")
	require.Zero(t, o.code, o.err)
	f, err := session.Open(file)
	require.NoError(t, err)
	defer f.Close()
	var roles, texts []string
	for _, m := range f.Messages {
		roles, texts = append(roles, m.Role), append(texts, m.Content)
	}
	assert.Equal(t, []string{"system", "user", "assistant", "user", "assistant"}, roles)
	assert.Equal(t, []string{"Be brief.", "Hello", texts[2], "And now?", strings.TrimSuffix(o.out, "\n")}, texts)

	o = run("-p", "x", "--raw")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "--raw")
	o = ellm("run", compressed(t, "--bpw", "5"), "--device", "cpu", "-p", "x", "--session", file)
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "another model")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, bad := range [][]byte{good[:len(good)-5], []byte("hello"), bytes.Replace(good, []byte("Hello"), []byte("Hallo"), 1), {}} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		o = run("-p", "x")
		assert.Equal(t, exitFailure, o.code)
		assert.Contains(t, o.err, file)
		after, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, bad, after, "a file that cannot be read is left alone")
	}
}

// A file whose checksum fits may still say what does not belong together.
func TestForgedSessionsAreRefused(t *testing.T) {
	model, file := compressed(t, "--lossless"), filepath.Join(t.TempDir(), "talk")
	run := func() outcome {
		return ellm("run", model, "--device", "cpu", "--raw", "-n", "4", "--temp", "0", "--session", file, "-p", "x")
	}
	require.Zero(t, run().code)
	f, err := session.Open(file)
	require.NoError(t, err)
	talk, cache := f.Conversation, f.Cache
	require.NoError(t, f.Close())
	zeros := func(write func([]byte) error) error {
		for range cache.Pages {
			if err := write(make([]byte, cache.PageBytes)); err != nil {
				return err
			}
		}
		return nil
	}
	talk.Tokens = []int32{1 << 30}
	require.NoError(t, session.Save(file, &talk, nil, nil))
	assert.Contains(t, run().err, "token 1073741824")
	talk.Tokens = []int32{1, 2, 3}
	cache.Covered, cache.Pages = 1, 7
	require.NoError(t, session.Save(file, &talk, &cache, zeros))
	assert.Contains(t, run().err, "7 pages for 1 tokens, expected 1")
	// A page of nonsense: the text is nonsense, the program goes on or says that logits are NaN.
	cache.Covered, cache.Pages = 3, 1
	require.NoError(t, session.Save(file, &talk, &cache, func(write func([]byte) error) error {
		return write(bytes.Repeat([]byte{0xFF}, cache.PageBytes))
	}))
	o := run()
	assert.True(t, o.code == exitOK || strings.Contains(o.err, "NaN"), o.err)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)), binary.LittleEndian.Uint32(b[len(b)-4:]))
}

// talking returns a chat with the test model, and what it writes.
func talking(t *testing.T) (c *conversation, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	p := &program{Streams: Streams{Out: out, Err: errs}, text: out}
	m, err := p.load(context.Background(), compressed(t, "--lossless"), "cpu", engine.LoadOptions{Plan: engine.PlanAuto,
		KVType: engine.KVF16})
	require.NoError(t, err)
	t.Cleanup(m.close)
	o := runOptions{n: 6, sampling: sample.Options{Temperature: 1, Seed: 3, TopP: 1}}
	require.NoError(t, o.prepare(m))
	return &conversation{p: p, model: m, opt: o}, out, errs
}

func TestCommandsOfAChat(t *testing.T) {
	c, out, errs := talking(t)
	ctx, file := context.Background(), filepath.Join(t.TempDir(), "talk")
	say := func(line string) string {
		out.Reset()
		errs.Reset()
		quit, err := c.turn(ctx, line)
		require.NoError(t, err, line)
		require.False(t, quit, line)
		return out.String() + errs.String()
	}
	assert.Contains(t, say("/help"), "/regenerate, /retry")
	assert.Contains(t, say("/regenerate"), "no answer yet")
	assert.Contains(t, say("/system"), "no system message")
	say("/system Answer in verse.")
	assert.Contains(t, say("/system"), "Answer in verse.")
	say("Hello")
	require.Len(t, c.said, 3)
	assert.Equal(t, "Answer in verse.", c.said[0].Content)
	first := c.said[2].Content
	say("/regenerate")
	require.Len(t, c.said, 3)
	assert.Equal(t, "Hello", c.said[1].Content)
	assert.NotEqual(t, first, c.said[2].Content)
	say("/system Answer in prose.")
	say("/etc/passwd is a path, not a command")
	require.Len(t, c.said, 5)
	assert.Equal(t, "Answer in prose.", c.said[0].Content)

	assert.Contains(t, say("/save "+file), "saved in "+file)
	saved, tokens := c.said, c.tokens
	say("/reset")
	assert.Empty(t, c.said)
	assert.Contains(t, say("/load "+file), "5 messages")
	assert.Equal(t, saved, c.said)
	assert.Equal(t, tokens, c.tokens)
	assert.Contains(t, say("/load nowhere"), "nowhere: no such file")
	assert.Contains(t, say("/save"), "expected the name of a file")

	assert.Contains(t, say("/set"), "temp                 1\n")
	say("/set temp 0")
	say("/set --top_p=0.5")
	say("/set n 2")
	say("/set seed 9")
	assert.Zero(t, c.opt.sampling.Temperature)
	assert.EqualValues(t, 0.5, c.opt.sampling.TopP)
	assert.Equal(t, 2, c.opt.n)
	assert.EqualValues(t, 9, c.opt.sampling.Seed)
	for line, want := range map[string]string{"/set temp x": "expected a number", "/set temp -1": "expected 0 to 1000",
		"/set colour 1": "no such option", "/set temp": "an option and a value", "/set top-k 1.5": "expected a number"} {
		assert.Contains(t, say(line), want)
	}
	say("/stats")
	assert.Contains(t, say("More"), "decode: 2 tokens")
	quit, err := c.turn(ctx, " /bye ")
	require.NoError(t, err)
	assert.True(t, quit)
	assert.Equal(t, []string{"/regenerate", "/retry", "/reset"}, completeCommand("/re"))
	assert.Empty(t, completeCommand("re"))
}
