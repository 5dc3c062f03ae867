package emu

import (
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// Order is when work of streams runs. A program that orders its work with events gets the same results with each.
type Order int

const (
	AtOnce      Order = iota // when it is queued
	NewestFirst              // when something waits for it, as far as events allow: streams made last first
	OldestFirst              // likewise, streams made first first
)

// queued is a piece of work of a stream.
type queued struct {
	run func() error
	// wait holds up the stream until the event has happened `times` times.
	wait  *event
	times int
}

type stream struct {
	d     *Device
	queue []queued
}

type event struct {
	d              *Device
	recorded, done int // times that Record was called, and that it happened
	at             time.Time
}

// NewStream implements driver.Device.
func (d *Device) NewStream() (driver.Stream, error) {
	s := &stream{d: d}
	d.streams = append(d.streams, s)
	return s, nil
}

// NewEvent implements driver.Device.
func (d *Device) NewEvent() (driver.Event, error) { return &event{d: d}, nil }

func (s *stream) Synchronize() error { return s.d.flush() }

func (s *stream) Destroy() error {
	err := s.d.flush()
	for i, other := range s.d.streams {
		if other == s {
			s.d.streams = append(s.d.streams[:i], s.d.streams[i+1:]...)
			break
		}
	}
	return err
}

func (s *stream) Wait(e driver.Event) error {
	ev, ok := e.(*event)
	if !ok || ev.d != s.d {
		return &driver.Error{Op: "emulator: wait", Msg: "for an event of another device"}
	}
	return s.d.submit(s, queued{wait: ev, times: ev.recorded})
}

// on returns a stream of this device; nil is the default stream.
func (d *Device) on(s driver.Stream) (*stream, error) {
	if s == nil {
		return nil, nil
	}
	if own, ok := s.(*stream); ok && own.d == d {
		return own, nil
	}
	return nil, &driver.Error{Op: "emulator: stream", Msg: "of another device"}
}

// submit queues work, or runs it if its time has come. Work of the default stream waits for all others.
func (d *Device) submit(s *stream, q queued) error {
	if d.capture != nil {
		return &driver.Error{Op: "emulator: capture", Msg: "only launches on the captured stream can be captured"}
	}
	if s != nil && d.order != AtOnce {
		s.queue = append(s.queue, q)
		return nil
	}
	if err := d.flush(); err != nil || q.run == nil {
		return err
	}
	return q.run()
}

// flush runs everything that is queued.
func (d *Device) flush() error {
	if d.capture != nil {
		return d.submit(nil, queued{})
	}
	for {
		moved, left := false, false
		for i := range d.streams {
			s := d.streams[i]
			if d.order == NewestFirst {
				s = d.streams[len(d.streams)-1-i]
			}
			ran, err := s.advance()
			if err != nil {
				return err
			}
			moved, left = moved || ran, left || len(s.queue) > 0
		}
		if !left {
			return nil
		}
		if !moved {
			return &driver.Error{Op: "emulator: streams", Msg: "they wait for each other"}
		}
	}
}

// advance runs the stream's work up to an event that has not happened.
func (s *stream) advance() (moved bool, err error) {
	for len(s.queue) > 0 {
		q := s.queue[0]
		if q.wait != nil && q.wait.done < q.times {
			return moved, nil
		}
		s.queue = s.queue[1:]
		moved = true
		if q.run != nil {
			if err := q.run(); err != nil {
				return moved, err
			}
		}
	}
	return moved, nil
}

func (e *event) Record(s driver.Stream) error {
	own, err := e.d.on(s)
	if err != nil {
		return err
	}
	e.recorded++
	return e.d.submit(own, queued{run: func() error {
		e.done++
		e.at = time.Now()
		return nil
	}})
}

func (e *event) Since(start driver.Event) (time.Duration, error) {
	s, ok := start.(*event)
	if !ok || s.recorded == 0 || e.recorded == 0 {
		return 0, &driver.Error{Op: "emulator: event", Msg: "not recorded"}
	}
	if err := e.d.flush(); err != nil {
		return 0, err
	}
	return e.at.Sub(s.at), nil
}

func (e *event) Synchronize() error {
	if e.done == e.recorded {
		return nil
	}
	return e.d.flush()
}

func (e *event) Destroy() error { return nil }

// graph is a list of launches, as commands for the emulator.
type graph struct {
	d        *Device
	on       *stream
	launches []func() error
}

// Capture implements driver.Device.
func (d *Device) Capture(s driver.Stream, f func() error) (driver.Graph, error) {
	own, err := d.on(s)
	if err != nil || own == nil || d.capture != nil {
		return nil, &driver.Error{Op: "emulator: capture", Msg: "needs a stream of this device, and one capture at a time"}
	}
	g := &graph{d: d, on: own}
	d.capture = g
	err = f()
	d.capture = nil
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (g *graph) Launch(s driver.Stream) error {
	own, err := g.d.on(s)
	if err != nil {
		return err
	}
	return g.d.submit(own, queued{run: func() error {
		for _, launch := range g.launches {
			if err := launch(); err != nil {
				return err
			}
		}
		return nil
	}})
}

func (g *graph) Destroy() error {
	g.launches = nil
	return nil
}
