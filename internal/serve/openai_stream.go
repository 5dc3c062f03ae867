package serve

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// chatChunk is an event of a streamed chat answer.
type chatChunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"`
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []choiceDelta `json:"choices"`
	Usage   *usage        `json:"usage,omitempty"`
	Timings *timings      `json:"timings,omitempty"`
}

type choiceDelta struct {
	Index        int           `json:"index"`
	Delta        messageDelta  `json:"delta"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type messageDelta struct {
	Role      string      `json:"role,omitempty"`
	Content   *string     `json:"content,omitempty"`
	Reasoning string      `json:"reasoning_content,omitempty"`
	ToolCalls []callDelta `json:"tool_calls,omitempty"`
}

type callDelta struct {
	Index    int               `json:"index"`
	ID       string            `json:"id,omitempty"`
	Type     string            `json:"type,omitempty"`
	Function callFunctionDelta `json:"function"`
}

type callFunctionDelta struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

// chatStream writes the answers of a request as they come. Several goroutines use it.
type chatStream struct {
	mu   sync.Mutex
	ev   *events
	head chatChunk
}

func (c *chatStream) send(d choiceDelta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := c.head
	chunk.Choices = []choiceDelta{d}
	c.ev.send("", chunk)
}

func (s *Server) streamChat(ctx context.Context, w http.ResponseWriter, r *http.Request, t *turn, req *chatRequest) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &chatStream{ev: newEvents(w, false, cancel), head: chatChunk{ID: newID("chatcmpl"), Object: "chat.completion.chunk",
		Created: time.Now().Unix(), Model: t.jobs[0].lease.name}}
	results, errs := make([]*engine.Result, t.n), make([]error, t.n)
	var group sync.WaitGroup
	for i := range t.jobs {
		group.Go(func() { results[i], errs[i] = s.streamChoice(ctx, c, t, i) })
	}
	group.Wait()
	for _, err := range errs {
		if err == nil {
			continue
		}
		if !c.ev.started {
			s.failWith(w, r, err)
			return
		}
		c.ev.send("", errorBody(r.URL.Path, statusOf(err), err))
		c.ev.done()
		return
	}
	if req.StreamOptions.IncludeUsage {
		u := usageOf(results)
		last := c.head
		last.Choices, last.Usage, last.Timings = []choiceDelta{}, &u, timingsOf(results[0])
		c.ev.send("", last)
	}
	c.ev.done()
}

// streamChoice computes answer i and sends it piece by piece.
func (s *Server) streamChoice(ctx context.Context, c *chatStream, t *turn, i int) (*engine.Result, error) {
	j, p := t.jobs[i], t.streamParser()
	var steps []engine.Step
	begun := false
	emit := func(deltas []messageDelta) {
		for _, d := range deltas {
			if !begun {
				begun = true
				d.Role = "assistant"
			}
			out := choiceDelta{Index: i, Delta: d}
			if len(steps) > 0 {
				out.Logprobs, steps = chatLogprobsOf(j.lease.model.Engine, steps), nil
			}
			c.send(out)
		}
	}
	if j.logprobs {
		j.onStep = func(st engine.Step) { steps = append(steps, st) }
	}
	j.onText = func(text string) { emit(p.feed(text)) }
	res, err := s.run(ctx, j)
	if err != nil {
		return nil, err
	}
	emit(p.end())
	reason := finishReason(res.StopReason, p.calls > 0)
	last := choiceDelta{Index: i, FinishReason: &reason}
	if !begun {
		last.Delta.Role = "assistant"
	}
	if len(steps) > 0 {
		last.Logprobs = chatLogprobsOf(j.lease.model.Engine, steps)
	}
	c.send(last)
	return res, nil
}
