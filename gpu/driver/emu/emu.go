// Package emu runs kernels on the CPU: it starts the emulator (cuda/emu, program ellm-emu) as a child process that maps the
// same memory and takes commands on its standard input, one line each, answered by one line.
package emu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// base is where the emulator maps device memory; a device pointer is base + offset. Far from where systems put
// programs, libraries and stacks, so that a host pointer is never a valid device pointer.
const base = 0x200000000000

// stopTimeout bounds how long Close waits for the emulator to leave on its own.
const stopTimeout = 2 * time.Second

// Options of Open.
type Options struct {
	Path    string // the emulator program; empty: see Find
	Memory  int64  // bytes of device memory; 0 = half of this machine's (pages are taken when touched)
	Threads int    // 0 = all
	Order   Order
	Poison  bool // fill new allocations with 0xff (NaN), so that reads before writes show
}

// Device is the emulator. It implements driver.Device.
type Device struct {
	mu      sync.Mutex // held by Do
	mem     *memory
	space   *space
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	errTail *tail
	threads int
	poison  bool
	order   Order
	streams []*stream
	capture *graph                    // what launches are noted in; nil = they run
	kernels map[string]int            // name → number of arguments
	allowed map[driver.DevicePtr]bool // blocks that kernels may touch
	dead    error
}

// Find returns the emulator program: $ELLM_EMU, else ellm-emu beside this program, else in ./bin.
// The error unwraps to driver.ErrNotBuilt.
func Find() (string, error) {
	if p := os.Getenv("ELLM_EMU"); p != "" {
		if _, err := os.Stat(p); err != nil {
			return "", notBuilt(fmt.Sprintf("ELLM_EMU: %v", err))
		}
		return p, nil
	}
	dirs := []string{"bin"}
	if exe, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(exe)}, dirs...)
	}
	for _, d := range dirs {
		p := filepath.Join(d, "ellm-emu")
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return filepath.Abs(p)
		}
	}
	return "", notBuilt("ellm-emu is neither beside this program nor in ./bin")
}

func notBuilt(msg string) error {
	return &driver.Error{Op: "emulator", Kind: driver.ErrNotBuilt, Msg: msg + "; run `make emu`"}
}

// Open starts the emulator.
func Open(o Options) (*Device, error) {
	path := o.Path
	if path == "" {
		var err error
		if path, err = Find(); err != nil {
			return nil, err
		}
	}
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	mem, err := newMemory(o.Memory)
	if err != nil {
		return nil, err
	}
	d := &Device{mem: mem, space: newSpace(int64(len(mem.bytes))), threads: o.Threads, poison: o.Poison, order: o.Order,
		errTail: &tail{},
		allowed: map[driver.DevicePtr]bool{}}
	if err := d.start(path); err != nil {
		mem.close()
		return nil, err
	}
	if err := d.readKernels(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Device) start(path string) error {
	// The child finds the memory as its file descriptor 3.
	cmd := exec.Command(path, "--memory", "/proc/self/fd/3", "--size", strconv.Itoa(len(d.mem.bytes)),
		"--base", fmt.Sprintf("%x", uint64(base)), "--threads", strconv.Itoa(d.threads))
	cmd.ExtraFiles = []*os.File{d.mem.file}
	cmd.Stderr = d.errTail
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return notBuilt(err.Error())
	}
	d.cmd, d.in, d.out = cmd, in, bufio.NewReader(out)
	return nil
}

// command sends one line and returns what follows "ok" in the answer.
func (d *Device) command(op, detail, line string) (string, error) {
	if d.dead != nil {
		return "", d.dead
	}
	if _, err := io.WriteString(d.in, line+"\n"); err != nil {
		return "", d.died(op, detail, err)
	}
	reply, err := d.out.ReadString('\n')
	if err != nil {
		return "", d.died(op, detail, err)
	}
	reply = strings.TrimSuffix(reply, "\n")
	switch {
	case reply == "ok":
		return "", nil
	case strings.HasPrefix(reply, "ok "):
		return reply[3:], nil
	case strings.HasPrefix(reply, "error "):
		return "", &driver.Error{Op: "emulator: " + op, Detail: detail, Msg: reply[6:]}
	}
	return "", d.died(op, detail, fmt.Errorf("unexpected answer %q", reply))
}

// died records that the emulator is gone, with the end of what it said.
func (d *Device) died(op, detail string, cause error) error {
	d.in.Close()
	d.cmd.Process.Kill()
	wait := d.cmd.Wait()
	msg := fmt.Sprintf("the emulator stopped (%v", cause)
	if wait != nil {
		msg += ", " + wait.Error()
	}
	msg += ")"
	if s := d.errTail.String(); s != "" {
		msg += "; it said: " + s
	}
	d.dead = &driver.Error{Op: "emulator: " + op, Detail: detail, Msg: msg}
	return d.dead
}

func (d *Device) readKernels() error {
	reply, err := d.command("kernels", "", "kernels")
	if err != nil {
		return err
	}
	d.kernels = make(map[string]int)
	for _, f := range strings.Fields(reply) {
		name, n, ok := strings.Cut(f, ":")
		nargs, err := strconv.Atoi(n)
		if !ok || err != nil {
			return &driver.Error{Op: "emulator: kernels", Msg: fmt.Sprintf("unexpected %q; run `make emu` again", f)}
		}
		d.kernels[name] = nargs
	}
	return nil
}

// Do implements driver.Device.
func (d *Device) Do(f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f()
}

// Info implements driver.Device.
func (d *Device) Info() (driver.Info, error) {
	return driver.Info{Backend: "emu", Name: fmt.Sprintf("kernel emulator, %d CPU threads", d.threads),
		SMs: d.threads, MemTotal: d.space.size, MemFree: d.space.free(), SharedPerBlock: 48 << 10}, nil
}

// Synchronize implements driver.Device.
func (d *Device) Synchronize() error {
	if d.dead != nil {
		return d.dead
	}
	return d.flush()
}

// Close stops the emulator and frees its memory.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead == nil {
		io.WriteString(d.in, "quit\n")
		d.in.Close()
		stuck := time.AfterFunc(stopTimeout, func() { d.cmd.Process.Kill() })
		d.cmd.Wait()
		stuck.Stop()
		d.dead = errors.New("emulator: closed")
	}
	return d.mem.close()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - tailBytes; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
