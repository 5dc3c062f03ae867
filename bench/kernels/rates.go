package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// rate is one measured number that device descriptions (internal/predict/devices) assume.
type rate struct {
	Name  string  `json:"name"` // where descriptions have it: its name there
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// ratesReport is what -rates writes.
type ratesReport struct {
	Device string `json:"device"`
	Name   string `json:"device_name"`
	CC     string `json:"cc"`
	SMs    int    `json:"sms"`
	MHz    int    `json:"clock_mhz"`
	Image  string `json:"image"`
	Date   string `json:"date"`
	Rates  []rate `json:"rates"`
	// What could not be measured, and why.
	Missing []string `json:"missing,omitempty"`
}

// rater measures rates. sizes are smaller on the emulator, whose times mean nothing.
type rater struct {
	*bench
	launches, steps int
	readBytes       int64
	buffer          driver.DevicePtr
	stream          driver.Stream
}

// measureRates measures everything that device descriptions assume, in a few seconds.
func (b *bench) measureRates() (*ratesReport, error) {
	r := &rater{bench: b, launches: 1000, steps: 4096, readBytes: 128 << 20}
	if !b.timed {
		r.launches, r.steps, r.readBytes = 10, 64, 1<<20
	}
	rep := &ratesReport{Device: b.info.Label(), Name: b.info.Name, CC: fmt.Sprintf("%d.%d", b.info.CCMajor, b.info.CCMinor),
		SMs: b.info.SMs, MHz: b.info.ClockMHz, Image: b.info.Image, Date: time.Now().UTC().Format(time.DateOnly)}
	err := b.dev.Do(func() (err error) {
		if r.buffer, err = b.dev.Alloc(r.readBytes + 4<<20); err != nil {
			return err
		}
		if r.stream, err = b.dev.NewStream(); err != nil {
			return err
		}
		for _, m := range []func() ([]rate, error){r.launchRates, r.graphRate, r.readRate, r.latency, r.tables, r.issue, r.copyBack} {
			got, err := m()
			if err != nil {
				rep.Missing = append(rep.Missing, err.Error())
			}
			rep.Rates = append(rep.Rates, got...)
		}
		return errors.Join(r.stream.Destroy(), b.dev.Free(r.buffer))
	})
	return rep, err
}

func (r *rater) launch(name string, blocks, threads, shared int, args ...uint64) error {
	k, err := r.dev.Kernel(name, len(args))
	if err != nil {
		return err
	}
	return r.dev.Launch(k, driver.LaunchConfig{Grid: driver.D1(blocks), Block: driver.D1(threads), SharedBytes: shared,
		Stream: r.stream}, args...)
}

func (r *rater) empty() error {
	return r.launch("copy_words", 1, 256, 0, uint64(r.buffer), uint64(r.buffer), 0)
}

// seconds returns the device's seconds for what f queues on the stream: the median of five times after one that warms up.
func (r *rater) seconds(f func() error) (float64, error) {
	start, err := r.dev.NewEvent()
	if err != nil {
		return 0, err
	}
	defer start.Destroy()
	end, err := r.dev.NewEvent()
	if err != nil {
		return 0, err
	}
	defer end.Destroy()
	var times []time.Duration
	for i := range 6 {
		if err := errors.Join(start.Record(r.stream), f(), end.Record(r.stream)); err != nil {
			return 0, err
		}
		t, err := end.Since(start)
		if err != nil {
			return 0, err
		}
		if i > 0 {
			times = append(times, t)
		}
	}
	return median(times).Seconds(), nil
}

// launchRates: the host's and the device's time for a launch that does nothing, out of many that are queued one after the other.
func (r *rater) launchRates() ([]rate, error) {
	many := func() error {
		for range r.launches {
			if err := r.empty(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := errors.Join(many(), r.stream.Synchronize()); err != nil {
		return nil, err
	}
	began := time.Now()
	err := many()
	queued := time.Since(began).Seconds()
	if err := errors.Join(err, r.stream.Synchronize()); err != nil {
		return nil, err
	}
	all := time.Since(began).Seconds()
	n := float64(r.launches)
	return []rate{{"launch_us", 1e6 * all / n, "µs from launch to launch"},
		{"queue_us", 1e6 * queued / n, "µs of the host to queue a launch"}}, nil
}

// graphRate: the same launches as one graph, where the host is no limit.
func (r *rater) graphRate() ([]rate, error) {
	g, err := r.dev.Capture(r.stream, func() error {
		for range r.launches {
			if err := r.empty(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kernel_us: %w", err)
	}
	s, err := r.seconds(func() error { return g.Launch(r.stream) })
	return []rate{{"kernel_us", 1e6 * s / float64(r.launches), "µs per empty kernel of a graph"}}, errors.Join(err, g.Destroy())
}

// readRate: a sum over more than any cache, 16 bytes at a time.
func (r *rater) readRate() ([]rate, error) {
	blocks := 16 * max(r.info.SMs, 1)
	s, err := r.seconds(func() error {
		return r.launch("measure_read", blocks, 256, 0, uint64(r.buffer), uint64(r.buffer)+uint64(r.readBytes), uint64(r.readBytes/16))
	})
	if err != nil {
		return nil, fmt.Errorf("read_gbps: %w", err)
	}
	return []rate{{"read_gbps", float64(r.readBytes) / s / 1e9, "GB/s read, 16 bytes at a time"}}, nil
}

// latency: a walk through a cycle that the second-level cache holds.
func (r *rater) latency() ([]rate, error) {
	const elements = 16 << 10 // 64 KiB: more than a first-level cache
	order := rand.New(rand.NewPCG(1, 2)).Perm(elements)
	cycle := make([]byte, 4*elements)
	for i, at := range order {
		binary.LittleEndian.PutUint32(cycle[4*at:], uint32(order[(i+1)%elements]))
	}
	if err := r.dev.CopyHtoD(r.buffer, cycle); err != nil {
		return nil, err
	}
	steps := r.steps * 4
	s, err := r.seconds(func() error {
		return r.launch("measure_chase", 1, 1, 0, uint64(r.buffer), uint64(r.buffer)+4*elements, uint64(steps))
	})
	if err != nil {
		return nil, fmt.Errorf("latency_clk: %w", err)
	}
	ns := 1e9 * s / float64(steps)
	out := []rate{{"latency_ns", ns, "ns of a dependent load"}}
	if r.info.ClockMHz > 0 {
		out = append(out, rate{"latency_clk", ns * float64(r.info.ClockMHz) / 1e3,
			"clocks of a dependent load, at the highest clock rate"})
	}
	return out, nil
}

// tables: random reads of shared memory, against reads that never collide.
func (r *rater) tables() ([]rate, error) {
	var out []rate
	for _, kib := range []int{4, 16} {
		var s [2]float64
		for random := range s {
			var err error
			if s[random], err = r.seconds(func() error {
				return r.launch("measure_tables", 4*max(r.info.SMs, 1), 256, kib<<10, uint64(r.buffer), uint64(kib<<10/4), uint64(random),
					uint64(r.steps))
			}); err != nil {
				return out, fmt.Errorf("table_conflict: %w", err)
			}
		}
		name := "table_conflict"
		if kib != 4 {
			name += fmt.Sprintf("_%dk", kib)
		}
		out = append(out, rate{name, s[1] / s[0], fmt.Sprintf("× the time of reads without conflicts, table of %d KiB", kib)})
	}
	return out, nil
}

// issue: instructions of one lane per clock and multiprocessor.
func (r *rater) issue() ([]rate, error) {
	blocks := 8 * max(r.info.SMs, 1)
	s, err := r.seconds(func() error {
		return r.launch("measure_issue", blocks, 256, 0, uint64(r.buffer), uint64(r.steps))
	})
	if err != nil {
		return nil, fmt.Errorf("issue_rate: %w", err)
	}
	const perStep = 16
	g := float64(blocks) * 256 * float64(r.steps) * perStep / s / 1e9
	out := []rate{{"issue_g", g, "G half2 multiply-adds and logic operations per second"}}
	if r.info.ClockMHz > 0 {
		out = append(out, rate{"issue_rate", g * 1e3 / float64(r.info.ClockMHz) / float64(max(r.info.SMs, 1)),
			"of them per clock and multiprocessor, at the highest clock rate"})
	}
	return out, nil
}

// copyBack: the logits of a vocabulary of 152,000 tokens.
func (r *rater) copyBack() ([]rate, error) {
	const logits = 152_000
	host, err := r.dev.HostFloats(logits)
	if err != nil {
		return nil, err
	}
	to := floatBytes(host)
	var times []time.Duration
	for range 6 {
		began := time.Now()
		if err := r.dev.CopyDtoH(to, r.buffer); err != nil {
			return nil, fmt.Errorf("copy_us: %w", err)
		}
		times = append(times, time.Since(began))
	}
	return []rate{{"copy_us", 1e6 * median(times[1:]).Seconds(), "µs to copy 152,000 logits to the host"}}, nil
}

func (rep *ratesReport) write(path string) error {
	js, err := json.MarshalIndent(rep, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(path, append(js, '\n'))
}

func floatBytes(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
