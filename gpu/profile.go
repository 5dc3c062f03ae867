package gpu

import (
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// profile times launches with events on their stream, which do not hold up the host. They are read when a forward pass ends.
type profile struct {
	dev     driver.Device
	model   *predict.Model // nil: the device is not described
	entries [kernels.Count]engine.ProfileEntry
	events  []driver.Event // in pairs, for use again
	open    []kernels.ID   // launches whose events have not been read
	next    []predict.Work // what the next launches have to do
}

var _ kernels.Observer = (*profile)(nil)

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

// expect tells what the next launches have to do.
func (p *profile) expect(work []predict.Work) { p.next = work }

// Launch implements kernels.Observer: it launches a kernel between two events.
func (p *profile) Launch(id kernels.ID, c driver.LaunchConfig, launch func() error) error {
	if len(p.next) == 0 || p.next[0].Kernel != id.String() {
		return fmt.Errorf("gpu: kernel %s is launched, but the cost of the action does not have it", id)
	}
	work := p.next[0]
	p.next = p.next[1:]
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
	if err := before.Record(c.Stream); err != nil {
		return err
	}
	if err := launch(); err != nil {
		return err
	}
	p.open = append(p.open, id)
	e := &p.entries[id]
	e.Calls++
	for _, item := range work.Items {
		e.Bytes += item.Bytes
	}
	if p.model != nil {
		e.Predicted += time.Duration(p.model.Time(work).Seconds * float64(time.Second))
	}
	return after.Record(c.Stream)
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
			e.Name = kernels.ID(id).String()
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
