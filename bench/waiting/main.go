// Command waiting measures what a request waits for when it shares the engine: the second turn of a conversation, whose
// beginning the cache holds, and the tokens of streams during which a long prompt arrives.
//
//	go run ./bench/waiting [-plan fused] [-turn 2000] [-streams 4] [-long 4000] MODEL.ellm
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

type options struct {
	path                string
	plan                string
	turn, streams, long int // tokens of the first turn, sequences that stream, tokens of the prompt that arrives meanwhile
}

func main() {
	var o options
	flag.StringVar(&o.plan, "plan", string(engine.PlanResident), "resident or fused")
	flag.IntVar(&o.turn, "turn", 2000, "tokens of the first turn of the conversation")
	flag.IntVar(&o.streams, "streams", 4, "sequences that stream")
	flag.IntVar(&o.long, "long", 4000, "tokens of the prompt that arrives while they do")
	flag.Parse()
	o.path = flag.Arg(0)
	if err := run(context.Background(), &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/waiting:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.path == "" || o.turn < 1 || o.streams < 1 || o.long < 1 {
		return errors.New("usage: waiting [options] MODEL.ellm, with counts of 1 or more")
	}
	f, err := format.Open(o.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := cpu.New()
	defer func() { err = errors.Join(err, b.Close()) }()
	const room = 512 // positions for answers
	e, err := engine.New(ctx, f, b, engine.LoadOptions{NCtx: max(o.turn, o.long) + room, Sequences: o.streams + 1,
		Plan: engine.Plan(o.plan)})
	if err != nil {
		return err
	}
	fmt.Printf("%s · %s · plan %s\n", o.path, b.Describe(), b.Memory().Plan)
	if err := secondTurn(ctx, e, o); err != nil {
		return err
	}
	return longPrompt(ctx, e, o)
}

// prompt returns n tokens that differ from those of other seeds from the first one on.
func prompt(e *engine.Engine, n, seed int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32((uint64(i+1)*2654435761 + uint64(seed+1)*40503) % uint64(e.NVocab()))
	}
	return tokens
}

// firstToken is the time from a request to its first token.
func firstToken(r *engine.Result) time.Duration { return r.QueueTime + r.PrefillTime }

// secondTurn prints the time to the first token of a turn, and of the next one, which adds 20 tokens to it and its answer.
func secondTurn(ctx context.Context, e *engine.Engine, o *options) error {
	const answer, question = 32, 20
	first := prompt(e, o.turn, 0)
	r1, err := e.Generate(ctx, engine.Request{Prompt: first, MaxTokens: answer, IgnoreEnd: true})
	if err != nil {
		return err
	}
	second := slices.Concat(first, r1.Tokens, prompt(e, question, 1))
	r2, err := e.Generate(ctx, engine.Request{Prompt: second, MaxTokens: answer, IgnoreEnd: true})
	if err != nil {
		return err
	}
	fmt.Printf("first token of a turn of %d tokens %v; of the next one, %d of its %d tokens in the cache, %v: %.1f %%\n", o.turn,
		firstToken(r1).Round(time.Millisecond), r2.CachedTokens, len(second), firstToken(r2).Round(time.Millisecond),
		100*firstToken(r2).Seconds()/firstToken(r1).Seconds())
	return nil
}

// longPrompt prints the longest pause between two tokens of the streams, before and while a long prompt is computed.
func longPrompt(ctx context.Context, e *engine.Engine, o *options) error {
	const alone = 32 // tokens of each stream before the long prompt arrives
	streaming, stop := context.WithCancel(ctx)
	defer stop()
	streams := make([]stream, o.streams)
	arrive, failed := make(chan struct{}), make(chan error, o.streams)
	var wg sync.WaitGroup
	for i := range streams {
		s, steps := &streams[i], 0
		req := engine.Request{Prompt: prompt(e, 8, 100+i), MaxTokens: -1, IgnoreEnd: true, OnStep: func(engine.Step) {
			s.step(time.Now())
			if steps++; steps == alone && i == o.streams-1 {
				close(arrive)
			}
		}}
		wg.Go(func() {
			if _, err := e.Generate(streaming, req); err != nil && !errors.Is(err, context.Canceled) {
				failed <- err
				stop()
			}
		})
	}
	select {
	case <-arrive:
	case <-streaming.Done():
		return <-failed
	}
	begin := time.Now()
	r, err := e.Generate(ctx, engine.Request{Prompt: prompt(e, o.long, 7), MaxTokens: 1, IgnoreEnd: true})
	end := time.Now()
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	var before, during []time.Duration
	for i := range streams {
		before = append(before, streams[i].pauses(time.Time{}, begin)...)
		during = append(during, streams[i].pauses(begin, end)...)
	}
	if len(during) == 0 {
		return errors.New("the streams ended before the long prompt did (a longer -turn leaves them more room)")
	}
	slices.Sort(before)
	slices.Sort(during)
	ms := func(d time.Duration) float64 { return 1e3 * d.Seconds() }
	normal, middle := before[len(before)/2], during[len(during)/2]
	fmt.Printf("%d streams: a step takes %.1f ms (median); while a prompt of %d tokens is computed in chunks (%.1f s), %.1f ms "+
		"(median), %.1f ms (99th percentile), %.1f ms (longest of %d)\n", o.streams, ms(normal), o.long, firstToken(r).Seconds(),
		ms(middle), ms(during[len(during)*99/100]), ms(during[len(during)-1]), len(during))
	chunk, err := lastChunk(ctx, e, o)
	if err != nil {
		return err
	}
	fmt.Printf("the last %d tokens of such a prompt take %.1f ms alone: the longest pause is that and %.2f steps\n", chunkTokens,
		ms(chunk), (during[len(during)-1]-chunk).Seconds()/normal.Seconds())
	return nil
}

// chunkTokens is the engine's chunk (docs/engine.md).
const chunkTokens = 64

// lastChunk is what the last chunk of a long prompt takes when nothing else runs.
func lastChunk(ctx context.Context, e *engine.Engine, o *options) (time.Duration, error) {
	tokens := prompt(e, o.long, 8)
	req := engine.Request{Prompt: tokens[:max(1, o.long-chunkTokens)], MaxTokens: 1, IgnoreEnd: true}
	if _, err := e.Generate(ctx, req); err != nil {
		return 0, err
	}
	req.Prompt = tokens
	r, err := e.Generate(ctx, req)
	if err != nil {
		return 0, err
	}
	return firstToken(r), nil
}

// stream records when tokens came.
type stream struct {
	mu    sync.Mutex
	times []time.Time
}

func (s *stream) step(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, t)
}

// pauses returns the times between neighbouring tokens from begin to end.
func (s *stream) pauses(begin, end time.Time) (all []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 1; i < len(s.times); i++ {
		if s.times[i-1].After(begin) && s.times[i].Before(end) {
			all = append(all, s.times[i].Sub(s.times[i-1]))
		}
	}
	return all
}
