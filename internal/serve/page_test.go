package serve_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// browser starts headless Chromium; the test is skipped where there is none, unless ELLM_REQUIRE_CHROMIUM is set.
func browser(t *testing.T) context.Context {
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("ELLM_REQUIRE_CHROMIUM") != "" {
			t.Fatal("Chromium was not found")
		}
		t.Skip("SKIPPED: the page was not tested: there is no Chromium (Debian, Ubuntu: package chromium); CI installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(2*time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A person types, sees the answer come, regenerates it, stops one, reloads the page and begins anew.
func TestPageInABrowser(t *testing.T) {
	ctx := browser(t)
	h, _ := start(t, nil)
	var problems []string
	var mu sync.Mutex
	require.NoError(t, chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			problems = append(problems, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" {
				problems = append(problems, "console error")
			}
		}
	}))
	wait := func(condition string) { // until it holds
		t.Helper()
		require.Eventually(t, func() bool {
			ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+condition+")"))
			return err == nil && ok
		}, time.Minute, 50*time.Millisecond, condition)
	}
	answered := func() string {
		t.Helper()
		wait(`document.querySelector("#stop").hidden && document.querySelectorAll("article").length === 2 && ` +
			`/token|stopped/.test(document.querySelector(".rate").textContent)`)
		text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector("article.assistant .text").textContent`))
		require.NoError(t, err)
		return text
	}
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		require.NoError(t, chromedp.Do(ctx, steps...))
	}
	do(chromedp.EmulateViewport(390, 844), chromedp.Navigate(h.URL+"/"), chromedp.WaitVisible("#input")) // a phone
	wait(`document.querySelectorAll("#model option").length === 2`)
	models, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector("#model").textContent`))
	require.NoError(t, err)
	do(chromedp.Click("#settings-open"), chromedp.SetValue("#max_tokens", "12"), chromedp.SetValue("#seed", "1"),
		chromedp.Click("#settings-open"), chromedp.SendKeys("#input", "Once upon a time\r"))
	answer := answered()
	do(chromedp.Click(".tools button:nth-child(2)")) // regenerate
	again := answered()
	do(chromedp.Reload(), chromedp.WaitVisible("article.assistant"))
	kept := answered()
	do(chromedp.SetValue("#max_tokens", ""), chromedp.Click(".tools button:nth-child(2)"))
	wait(`!document.querySelector("#stop").hidden || /token/.test(document.querySelector(".rate").textContent)`)
	do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#stop").click()`))
	answered()
	do(chromedp.Click("#new"))
	count, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.querySelectorAll("article").length`))
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	assert.Contains(t, models, "tiny:a")
	assert.NotEmpty(t, answer)
	assert.Equal(t, answer, again, "the same seed")
	assert.Equal(t, answer, kept, "a reload keeps the conversation")
	assert.Zero(t, count)
	assert.Empty(t, problems)
}

// What models write does not become markup, whatever it is.
func TestPageShowsMarkdownAndNothingElse(t *testing.T) {
	ctx := browser(t)
	h, _ := start(t, nil)
	text := "# Head\n\nA **bold** *word*, `code` and [a link](https://example.com) [bad](javascript:alert(1)).\n\n" +
		"```go\nx := \"<b>\"\n```\n\n- one\n  - two\n- three\n\n1. a\n2. b\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<img src=x " +
		"onerror=alert(1)> <script>alert(1)</script>"
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(h.URL+"/"), chromedp.WaitVisible("#input")))
	html, err := chromedp.Run(ctx, chromedp.Evaluate[string](`(async () => { const m = await import("/markdown.js"); `+
		`const d = document.createElement("div"); d.append(...m.markdown(`+"`"+strings.NewReplacer("`", "\\`", "\n",
		"\\n").Replace(text)+
		"`"+`)); return d.innerHTML; })()`, chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	for _, want := range []string{"<h2>Head</h2>", "<strong>bold</strong>", "<em>word</em>", "<code>code</code>",
		`href="https://example.com"`,
		"x := \"&lt;b&gt;\"", "<ul><li>one<ul><li>two</li></ul></li><li>three</li></ul>",
		"<ol start=\"1\"><li>a</li><li>b</li></ol>", "<th>a</th>", "<td>2</td>"} {
		assert.Contains(t, html, want)
	}
	assert.NotContains(t, html, "<img")
	assert.NotContains(t, html, "<script")
	assert.NotContains(t, html, `href="javascript`)
}

func TestPageLoadsNothingFromElsewhere(t *testing.T) {
	h, _ := start(t, nil)
	for path, kind := range map[string]string{"/": "text/html", "/page.js": "javascript", "/markdown.js": "javascript",
		"/page.css": "text/css", "/icon.svg": "image/svg"} {
		resp, err := http.Get(h.URL + path)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Contains(t, resp.Header.Get("Content-Type"), kind)
		assert.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	}
}
