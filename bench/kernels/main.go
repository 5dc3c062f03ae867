// Command kernels measures products with coded and decoded matrices in the layer shapes of real models, on a GPU.
//
// usage: kernels [-device 0] [-json FILE] [-md FILE] [-cublas FILE] [-full]
//
// Every case is checked against the same product on the host. Times are medians of repetitions that alternate between
// the cases of a shape, with the caches filled with other data before each. On the emulator (-device emu) a few
// tiny cases are computed and checked, and nothing is timed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
)

func main() {
	var o options
	flag.StringVar(&o.device, "device", "0", "number of a GPU, or emu")
	flag.StringVar(&o.json, "json", "", "write the results to this `file`")
	flag.StringVar(&o.markdown, "md", "", "write a table to this `file`")
	flag.StringVar(&o.cublas, "cublas", "", "`file` with times of cuBLAS on the same device (bench/kernels/cublas.py)")
	flag.BoolVar(&o.full, "full", false, "more batch sizes, code length limits and rows per chunk")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

type options struct {
	device, json, markdown, cublas string
	full                           bool
}

func (o *options) open() (driver.Device, error) {
	if o.device == "emu" {
		return emu.Open(emu.Options{})
	}
	n, err := strconv.Atoi(o.device)
	if err != nil {
		return nil, fmt.Errorf("-device %s: expected the number of a GPU, or emu", o.device)
	}
	return cuda.Open(n)
}

func (o *options) run() (err error) {
	dev, err := o.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	b, err := newBench(dev, o.device != "emu")
	if err != nil {
		return err
	}
	defer b.close()
	r := &report{Device: b.info.Label(), Timed: b.timed, Described: b.described}
	if b.timed {
		if r.CopyGBps, err = b.copyRate(); err != nil {
			return err
		}
		if r.CuBLAS, err = readCuBLAS(o.cublas); err != nil {
			return err
		}
	}
	for _, s := range o.shapes() {
		results, err := b.shape(s, o.settings())
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		for i := range results {
			results[i].rate(r)
			fmt.Println(results[i].line(r.Timed))
		}
		r.Results = append(r.Results, results...)
	}
	if o.json != "" {
		js, err := json.MarshalIndent(r, "", " ")
		if err == nil {
			err = os.WriteFile(o.json, append(js, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if o.markdown != "" {
		return os.WriteFile(o.markdown, []byte(r.markdown()), 0o644)
	}
	return nil
}
