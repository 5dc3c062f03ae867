package gpu

import (
	"errors"
	"sort"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// profile times launches with events on their stream, which do not hold up the host. They are read when a forward pass ends.
type profile struct {
	dev     driver.Device
	model   *predict.Model // nil: the device is not described
	entries [numKernels]engine.ProfileEntry
	events  []driver.Event // in pairs, for use again
	open    []kernelID     // launches whose events have not been read
}

// profileBatch is how many launches are timed before their events are read.
const profileBatch = 4096

// newProfile returns an empty profile of a device; launches are compared with predictions if it is one of the described.
func newProfile(dev driver.Device, info driver.Info) (*profile, error) {
	p := &profile{dev: dev}
	d, exact, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz)
	if err != nil || !exact {
		return p, err
	}
	p.model, err = predict.NewModel(d)
	return p, err
}

// measure runs `start`, which launches a kernel, between two events.
func (p *profile) measure(l *launcher, id kernelID, c driver.LaunchConfig, args []uint64, start func() error) error {
	if len(p.open) == profileBatch {
		if err := p.read(); err != nil {
			return err
		}
	}
	for len(p.events) < 2*len(p.open)+2 {
		e, err := p.dev.NewEvent()
		if err != nil {
			return err
		}
		p.events = append(p.events, e)
	}
	before, after := p.events[2*len(p.open)], p.events[2*len(p.open)+1]
	if err := before.Record(l.stream); err != nil {
		return err
	}
	if err := start(); err != nil {
		return err
	}
	p.open = append(p.open, id)
	e := &p.entries[id]
	e.Calls++
	work := l.work(kernelTable[id].name, c, args)
	for _, t := range work.Tasks {
		e.Bytes += t.Bytes
	}
	if p.model != nil {
		e.Predicted += time.Duration(p.model.Time(work).Seconds * float64(time.Second))
	}
	return after.Record(l.stream)
}

// read adds the times of the launches since the last read.
func (p *profile) read() error {
	for i, id := range p.open {
		d, err := p.events[2*i+1].Since(p.events[2*i])
		if err != nil {
			return err
		}
		p.entries[id].Time += d
	}
	p.open = p.open[:0]
	return nil
}

// list returns the kernels that ran, the most expensive first.
func (p *profile) list() []engine.ProfileEntry {
	var all []engine.ProfileEntry
	for id, e := range p.entries {
		if e.Calls > 0 {
			e.Name = kernelTable[id].name
			all = append(all, e)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Time > all[j].Time })
	return all
}

func (p *profile) free() error {
	var errs []error
	for _, e := range p.events {
		errs = append(errs, e.Destroy())
	}
	p.events = nil
	return errors.Join(errs...)
}
