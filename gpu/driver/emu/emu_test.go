package emu

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

func open(t *testing.T, o Options) *Device {
	t.Helper()
	if o.Path = os.Getenv("ELLM_EMU"); o.Path == "" {
		o.Path = "../../../bin/ellm-emu"
	}
	if _, err := os.Stat(o.Path); err != nil {
		if os.Getenv("ELLM_REQUIRE_EMU") != "" {
			t.Fatalf("the emulator is required: %v", err)
		}
		t.Skipf("SKIPPED: %v; `make emu` builds the emulator", err)
	}
	d, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// program writes an executable shell script.
func program(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ellm-emu")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	return path
}

func TestFind(t *testing.T) {
	path := program(t, "exit 0")
	t.Setenv("ELLM_EMU", path)
	got, err := Find()
	require.NoError(t, err)
	assert.Equal(t, path, got)

	t.Setenv("ELLM_EMU", path+".gone")
	_, err = Find()
	assert.ErrorIs(t, err, driver.ErrNotBuilt)
	assert.ErrorContains(t, err, "make emu")

	t.Setenv("ELLM_EMU", "")
	t.Chdir(t.TempDir())
	_, err = Open(Options{Memory: 1 << 20})
	assert.ErrorIs(t, err, driver.ErrNotBuilt)
	require.NoError(t, os.Mkdir("bin", 0o755))
	require.NoError(t, os.Rename(path, "bin/ellm-emu"))
	got, err = Find()
	require.NoError(t, err)
	assert.Equal(t, "ellm-emu", filepath.Base(got))
}

// copyWords launches the kernel copy_words over n words.
func copyWords(t *testing.T, d *Device, dst, src driver.DevicePtr, n int) error {
	k, err := d.Kernel("copy_words", 3)
	require.NoError(t, err)
	return d.Launch(k, driver.LaunchConfig{Grid: driver.D1(2), Block: driver.D1(256)}, uint64(dst), uint64(src), uint64(n))
}

func TestCopyLaunchCopy(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20})
	want := make([]byte, 4000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	src, err := d.Alloc(4000)
	require.NoError(t, err)
	dst, err := d.Alloc(4000)
	require.NoError(t, err)
	require.NoError(t, d.CopyHtoD(src, want))
	require.NoError(t, copyWords(t, d, dst, src, 1000))
	got := make([]byte, 4000)
	require.NoError(t, d.CopyDtoH(got, dst))
	assert.Equal(t, want, got)

	require.NoError(t, d.Memset(src, 5, 4000))
	require.NoError(t, copyWords(t, d, dst, src, 999))
	require.NoError(t, d.CopyDtoH(got, dst))
	assert.Equal(t, byte(5), got[3995])
	assert.Equal(t, want[3996:], got[3996:], "only 999 words were copied")
	require.NoError(t, d.Free(src))
	assert.Error(t, d.Free(src))
}

func TestKernelLookup(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20})
	_, err := d.Kernel("no_such_kernel", 1)
	assert.ErrorIs(t, err, driver.ErrKernelImage)
	_, err = d.Kernel("copy_words", 7)
	assert.ErrorContains(t, err, "7")
	k, err := d.Kernel("copy_words", 3)
	require.NoError(t, err)
	assert.Error(t, d.Launch(k, driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256)}, 1))
}

// Kernels may touch what is allowed and nothing else.
func TestBounds(t *testing.T) {
	for name, touch := range map[string]func(t *testing.T, d *Device) error{
		"behind an allocation": func(t *testing.T, d *Device) error {
			p, err := d.Alloc(400)
			require.NoError(t, err)
			q, err := d.Alloc(400)
			require.NoError(t, err)
			return copyWords(t, d, q, p, 101)
		},
		"after free": func(t *testing.T, d *Device) error {
			p, err := d.Alloc(400)
			require.NoError(t, err)
			require.NoError(t, d.Free(p))
			return copyWords(t, d, p, p, 1)
		},
		"reserved, not allowed": func(t *testing.T, d *Device) error {
			p, err := d.Reserve(4096)
			require.NoError(t, err)
			require.NoError(t, d.Allow(p, 64))
			require.NoError(t, copyWords(t, d, p+32, p, 8))
			return copyWords(t, d, p+64, p, 1)
		},
		"forbidden again": func(t *testing.T, d *Device) error {
			p, err := d.Reserve(4096)
			require.NoError(t, err)
			require.NoError(t, d.Allow(p, 64))
			require.NoError(t, d.Forbid(p))
			return copyWords(t, d, p, p, 1)
		},
		"null": func(t *testing.T, d *Device) error { return copyWords(t, d, 0, 0, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			err := touch(t, open(t, Options{Memory: 1 << 20}))
			require.Error(t, err)
			assert.Contains(t, err.Error(), "copy_words")
		})
	}
}

func TestOutOfMemory(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20})
	_, err := d.Alloc(1<<20 + 1)
	assert.ErrorIs(t, err, driver.ErrOutOfMemory)
	var info driver.Info
	err = d.Do(func() (err error) { // as from anywhere else
		info, err = d.Info()
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, int64(1<<20), info.MemFree)
	p, err := d.Alloc(1 << 19)
	require.NoError(t, err)
	_, err = d.Alloc(1 << 19)
	assert.ErrorIs(t, err, driver.ErrOutOfMemory)
	require.NoError(t, d.Free(p))
	_, err = d.Alloc(1 << 19)
	assert.NoError(t, err)
	assert.Error(t, d.CopyHtoD(base+1<<20-4, make([]byte, 8)), "outside of device memory")
	assert.Error(t, d.CopyDtoH(make([]byte, 8), 16), "outside of device memory")
}

// A program that is no emulator, or dies, is reported with what it said.
func TestBrokenEmulator(t *testing.T) {
	_, err := Open(Options{Path: program(t, "echo it hurts >&2; exit 3"), Memory: 1 << 20})
	assert.ErrorContains(t, err, "it hurts")
	assert.ErrorContains(t, err, "exit status 3")

	_, err = Open(Options{Path: program(t, "while read x; do echo hello; done"), Memory: 1 << 20})
	assert.ErrorContains(t, err, "hello")

	_, err = Open(Options{Path: program(t, "read x; echo ok copy_words"), Memory: 1 << 20})
	assert.ErrorContains(t, err, "make emu")

	_, err = Open(Options{Path: filepath.Join(t.TempDir(), "gone"), Memory: 1 << 20})
	assert.ErrorIs(t, err, driver.ErrNotBuilt)
}

func TestEmulatorDies(t *testing.T) {
	d, err := Open(Options{Path: program(t, "read x; echo ok copy_words:3; read x; echo last words >&2"), Memory: 1 << 20})
	require.NoError(t, err)
	_, err = d.Alloc(64)
	require.ErrorContains(t, err, "last words")
	assert.Error(t, d.Synchronize())
	_, err = d.Alloc(64)
	assert.ErrorContains(t, err, "last words", "still says why")
	assert.NoError(t, d.Close())
	assert.NoError(t, d.Close())
}

func TestEvents(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20})
	a, err := d.NewEvent()
	require.NoError(t, err)
	b, err := d.NewEvent()
	require.NoError(t, err)
	_, err = b.Since(a)
	assert.Error(t, err, "not recorded")
	s, err := d.NewStream()
	require.NoError(t, err)
	require.NoError(t, a.Record(s))
	require.NoError(t, b.Record(s))
	dt, err := b.Since(a)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, dt.Nanoseconds(), int64(0))
}

// What one stream makes and another reads is right in every order if an event says who waits for whom, and wrong in one if none
// does.
func TestStreamsRunInAnyOrder(t *testing.T) {
	for _, synchronized := range []bool{true, false} {
		wrong := 0
		for _, order := range []Order{AtOnce, NewestFirst, OldestFirst} {
			d := open(t, Options{Memory: 1 << 20, Order: order})
			a, err := d.Alloc(64)
			require.NoError(t, err)
			b, err := d.Alloc(64)
			require.NoError(t, err)
			require.NoError(t, d.Memset(a, 1, 64))
			k, err := d.Kernel("copy_words", 3)
			require.NoError(t, err)
			var streams [2]driver.Stream
			for i := range streams {
				streams[i], err = d.NewStream()
				require.NoError(t, err)
			}
			made, err := d.NewEvent()
			require.NoError(t, err)
			src := []byte{2, 3, 4, 5}
			require.NoError(t, d.CopyHtoDOn(streams[0], a, src))
			src[0] = 99 // too late
			require.NoError(t, made.Record(streams[0]))
			if synchronized {
				require.NoError(t, streams[1].Wait(made))
			}
			require.NoError(t, d.Launch(k, driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256), Stream: streams[1]},
				uint64(b), uint64(a), 1))
			got := make([]byte, 4)
			require.NoError(t, d.CopyDtoH(got, b))
			if string(got) != "\x02\x03\x04\x05" {
				wrong++
			}
		}
		assert.Equal(t, !synchronized, wrong > 0)
	}
}

func TestStreamsThatWaitForEachOther(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20, Order: OldestFirst})
	a, err := d.NewStream()
	require.NoError(t, err)
	b, err := d.NewStream()
	require.NoError(t, err)
	e, err := d.NewEvent()
	require.NoError(t, err)
	require.NoError(t, a.Wait(e), "was never recorded: nothing to wait for")
	require.NoError(t, d.Synchronize())
	require.NoError(t, e.Record(b))
	require.NoError(t, a.Wait(e))
	require.NoError(t, d.Synchronize())
	e.(*event).recorded++ // of a stream that never comes to it
	require.NoError(t, a.Wait(e))
	assert.ErrorContains(t, d.Synchronize(), "wait for each other")
}

func TestGraph(t *testing.T) {
	d := open(t, Options{Memory: 1 << 20, Order: NewestFirst})
	p, err := d.Alloc(12)
	require.NoError(t, err)
	require.NoError(t, d.Memset(p, 0, 12))
	s, err := d.NewStream()
	require.NoError(t, err)
	k, err := d.Kernel("copy_words", 3)
	require.NoError(t, err)
	step := func(i uint64) error {
		return d.Launch(k, driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256), Stream: s}, uint64(p)+4*i+4, uint64(p)+4*i, 1)
	}
	g, err := d.Capture(s, func() error { return errors.Join(step(0), step(1)) })
	require.NoError(t, err)
	for _, first := range []byte{7, 9} {
		require.NoError(t, d.CopyHtoDOn(s, p, []byte{first}))
		require.NoError(t, g.Launch(s))
		got := make([]byte, 12)
		require.NoError(t, d.CopyDtoH(got, p))
		assert.Equal(t, []byte{first, 0, 0, 0, first, 0, 0, 0, first, 0, 0, 0}, got)
	}
	_, err = d.Capture(s, func() error { return d.CopyHtoDOn(s, p, []byte{1}) })
	assert.ErrorContains(t, err, "only launches")
	_, err = d.Capture(nil, func() error { return nil })
	assert.Error(t, err)
	require.NoError(t, g.Destroy())
}

// First fit: freed ranges are used again, and ranges never overlap or touch.
func TestSpace(t *testing.T) {
	s := newSpace(10000)
	var at [3]int64
	for i := range at {
		off, err := s.take(1000)
		require.NoError(t, err)
		assert.Zero(t, off%align)
		at[i] = off
	}
	n, ok := s.give(at[1])
	assert.True(t, ok)
	assert.Equal(t, int64(1000), n)
	_, ok = s.give(at[1])
	assert.False(t, ok)
	off, err := s.take(2000)
	require.NoError(t, err)
	assert.Greater(t, off, at[2], "does not fit the gap")
	off, err = s.take(900)
	require.NoError(t, err)
	assert.Equal(t, at[1], off, "fits the gap")
	for i, a := range s.taken[1:] {
		assert.GreaterOrEqual(t, a.off-s.taken[i].off-s.taken[i].n, int64(align))
	}
	_, err = s.take(0)
	assert.Error(t, err)
	assert.Equal(t, int64(4900), s.used)
}
