// Command kernels measures products with coded and decoded matrices in the layer shapes of real models, on a GPU.
//
// usage: kernels [-device 0] [-json FILE] [-md FILE] [-cublas FILE] [-full]
//
//	kernels [-device 0] -rates FILE
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
	"runtime/debug"
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
	flag.StringVar(&o.rates, "rates", "", "measure the rates that device descriptions assume, write them to this `file`, and "+
		"no products")
	flag.BoolVar(&o.full, "full", false, "more batch sizes, code length limits and rows per chunk")
	flag.Parse()
	debug.SetGCPercent(20) // a matrix is hundreds of megabytes, and a small board has few
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

type options struct {
	device, json, markdown, cublas, rates string
	full                                  bool
}

func (o *options) open() (driver.Device, error) {
	if o.device == "emu" {
		return emu.Open(emu.Options{})
	}
	n, err := strconv.Atoi(o.device)
	if err != nil {
		return nil, fmt.Errorf("-device %s: expected the number of a GPU, or emu", o.device)
	}
	return cuda.Open(n, cuda.Options{})
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
	if o.rates != "" {
		return b.writeRates(o.rates)
	}
	r := &report{Device: b.info.Label(), Timed: b.timed, Described: b.described}
	if b.timed {
		if r.CopyGBps, err = b.copyRate(); err != nil {
			return err
		}
		if r.CuBLAS, err = readCuBLAS(o.cublas); err != nil {
			return err
		}
	}
	failed := 0
	for _, s := range o.shapes() {
		for _, group := range b.groups(s, o.settings()) {
			results, err := b.shape(s, group)
			if err != nil { // the others are worth knowing
				failed++
				r.Failed = append(r.Failed, fmt.Sprintf("%s, %s: %v", s, group[0].coding.name, err))
				fmt.Println(r.Failed[len(r.Failed)-1])
			}
			for i := range results {
				results[i].rate(r)
				fmt.Println(results[i].line(r.Timed))
			}
			r.Results = append(r.Results, results...)
			if err := o.write(r); err != nil { // each time: the machine may not live to see the end
				return err
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d groups of cases failed", failed)
	}
	return nil
}

// write writes the report, whole or not at all.
func (o *options) write(r *report) error {
	if o.json != "" {
		js, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := replaceFile(o.json, append(js, '\n')); err != nil {
			return err
		}
	}
	if o.markdown != "" {
		return replaceFile(o.markdown, []byte(r.markdown()))
	}
	return nil
}

func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".tmp", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
