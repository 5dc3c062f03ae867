# The project's only build interface; "make help" lists the targets.

GO      ?= go
CMAKE   ?= cmake
PYTHON  ?= python3
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
PKG     := ./cli/ellm-gpu
NVCC    := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))

# simd/archsimd exists on amd64 only; everything builds without it too.
ifeq ($(shell $(GO) env GOARCH),amd64)
SIMD := GOEXPERIMENT=simd
endif

# Where toolkits keep cuda.h and the libcuda.so to link with when no driver is installed. CUDA_HOME names one elsewhere.
CUDA_HEADERS := $(wildcard $(addsuffix /include,$(CUDA_HOME) /usr/local/cuda /usr/lib/cuda /opt/cuda))
CUDA_STUBS   := $(wildcard $(addsuffix /lib64/stubs,$(CUDA_HOME) /usr/local/cuda /opt/cuda) /usr/lib/x86_64-linux-gnu/stubs /usr/lib/aarch64-linux-gnu/tegra)
CGO          := CGO_ENABLED=1 CGO_CFLAGS="$${CGO_CFLAGS--g -O2} $(addprefix -I,$(CUDA_HEADERS))" CGO_LDFLAGS="$${CGO_LDFLAGS--g -O2} $(addprefix -L,$(CUDA_STUBS))"

# MODEL=file.gguf makes "make demo" and "make bench" use that model instead of obtaining SmolLM2-135M-Instruct.
DEMO_GGUF  := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL      ?= $(DEMO_GGUF)
DEMO_ELLM   = models/$(basename $(notdir $(MODEL))).ellm
PROMPT     ?= In one sentence: what is a Huffman code?
TEXT       ?= wiki.test.raw
PEER       ?= llama.cpp/build/bin

.PHONY: help build build-cuda kernels emu nvcc test test-go test-kernels lint demo bench bench-compare compare sass clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/ellm-gpu in pure Go
	CGO_ENABLED=0 $(SIMD) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ellm-gpu $(PKG)

build-cuda: kernels ## bin/ellm-gpu with GPU support; starts without a GPU too
	$(CGO) $(SIMD) $(GO) build -tags cuda -trimpath -ldflags '$(LDFLAGS)' -o bin/ellm-gpu $(PKG)

kernels: ## the CUDA kernels with nvcc, into gpu/driver/cuda/kernels (embedded by build-cuda)
ifeq ($(NVCC),)
	@echo 'nvcc was not found. "make nvcc" installs it on Debian and Ubuntu; elsewhere install the CUDA toolkit (10.2 to 12.9) and put nvcc on PATH.' >&2; exit 1
else
	$(CMAKE) -S . -B build/cmake -DELLM_CUDA=ON -DELLM_NVCC=$(NVCC)
	$(CMAKE) --build build/cmake --target kernels -j $(JOBS)
	rm -f gpu/driver/cuda/kernels/*.cubin gpu/driver/cuda/kernels/*.ptx
	cp build/kernels/*.cubin build/kernels/*.ptx gpu/driver/cuda/kernels/
endif

emu: ## bin/ellm-emu, which runs the kernels on the CPU
	$(CMAKE) -S . -B build/cmake
	$(CMAKE) --build build/cmake --target ellm-emu ellm-emu-fast emu-selftest -j $(JOBS)
	mkdir -p bin
	cp --remove-destination build/ellm-emu build/ellm-emu-fast bin/

nvcc: ## install nvcc (Debian, Ubuntu; as root or with sudo)
	.ci/install-nvcc

test: lint emu test-go test-kernels ## all checks; compiles the kernels if nvcc is there

lint:
	@bad=$$(gofmt -l cli cpu format gpu internal bench); if [ -n "$$bad" ]; then echo "gofmt would change:" $$bad >&2; exit 1; fi
	$(SIMD) $(GO) vet ./...

# The CPU packages have generic and vectorized forms: both are tested.
test-go:
	build/cmake/emu-selftest
	ELLM_EMU=$(CURDIR)/bin/ellm-emu ELLM_REQUIRE_EMU=1 $(SIMD) $(GO) test ./...
	GOEXPERIMENT=nosimd $(GO) test ./cpu/... ./internal/engine/... ./internal/huffman/...
	cd internal/asm && $(GO) vet ./arm64 && $(GO) test ./arm64

ifeq ($(NVCC),)
test-kernels:
	@echo 'SKIPPED: nvcc was not found, so the kernels were tested in the emulator but not compiled for GPUs ("make nvcc" installs it)'
else
test-kernels: kernels
	$(CGO) $(GO) vet -tags cuda ./gpu/... ./cli/...
	$(CGO) $(GO) test -tags cuda ./gpu/driver/...
	ELLM_KERNELS=$(CURDIR)/build/kernels $(GO) test ./bench/sass
endif

demo: build $(DEMO_ELLM) ## obtain a small chat model, compress it, answer a prompt on the CPU
	bin/ellm-gpu inspect $(DEMO_ELLM) | tail -n 12
	bin/ellm-gpu run $(DEMO_ELLM) --device cpu --temp 0 -n 128 -p '$(PROMPT)'

$(DEMO_ELLM): $(MODEL) | build
	@mkdir -p models
	bin/ellm-gpu compress $(MODEL) -o $@ --lossless

$(DEMO_GGUF):
	@bench/get-model $@

# The peer's programs are used if PEER has them; BENCH holds further options of bench/cpu, for example BENCH='-only coding'.
bench: build $(DEMO_ELLM) ## CPU speed in one table, against huff0, llama.cpp (PEER=dir) and the machine's limits; MODEL=file.gguf
	$(SIMD) $(GO) run ./bench/cpu -program bin/ellm-gpu -model $(DEMO_ELLM) $(if $(wildcard $(PEER)/llama-bench),-peer $(PEER) -peer-model $(MODEL)) \
		-json bench/results/cpu_$(basename $(notdir $(MODEL))).json $(BENCH)

bench-compare: build ## same tokens and perplexity as llama.cpp: PEER=dir with its binaries, TEXT=file, MODEL=file.gguf
	bench/compare/llama_cpp.sh $(PEER) $(MODEL) $(TEXT)

sass: kernels ## instructions per weight of the compiled kernels
	$(GO) run ./bench/sass build/kernels

compare: build ## quality per byte: MODEL=f16.gguf TEXT=file; also UNSEEN=file, CALIBRATE=file, OWN=tokens, SIZES='5bpw …', PEER=dir with llama.cpp's programs
	bench/compare/quality.sh $(MODEL) $(TEXT) $(if $(wildcard $(PEER)/llama-quantize),--peer $(PEER)) \
		$(if $(UNSEEN),--unseen $(UNSEEN)) $(if $(CALIBRATE),--calibrate $(CALIBRATE)) $(if $(OWN),--own-tokens $(OWN)) $(if $(SIZES),--sizes '$(SIZES)')

.PHONY: asm kernel-counts bench-kernels jetson test-jetson gpu-bundle

asm: ## generate the Go assembly again (internal/asm)
	cd internal/asm && for p in decode:cpu/decode/chunk dot:cpu/dot/dot linalg:internal/linalg/gemm; do \
		out=../../$${p#*:}_amd64; dir=$$(dirname $$out); \
		$(GO) run . $${p%%:*} -out $$out.s -stubs $$out.go -pkg $$(basename $$dir) || exit 1; done
	cd internal/asm && for p in dot:cpu/dot/dot floats:cpu/floats linalg:internal/linalg/gemm; do \
		$(GO) run ./arm64 $${p%%:*} ../../$${p#*:}_arm64 || exit 1; done

kernel-counts: kernels ## instruction counts of the compiled kernels, for predictions
	$(GO) run ./bench/sass -arch sm_53,sm_86,sm_90 -json internal/predict/kernels.json build/kernels

jetson: kernels ## bin/ellm-gpu-jetson for Jetson boards (aarch64, glibc 2.27), with GPU support
	.ci/install-zig build/zig
	ZIG=$(CURDIR)/build/zig/zig .ci/build-jetson bin/ellm-gpu-jetson $(VERSION)

test-jetson: ## build the Jetson program and run its CPU half under qemu
	.ci/test-jetson

bench-kernels: kernels ## products in the shapes of real models on GPU 0 (DEVICE=1: another; FULL=-full: more cases), into bench/results
	$(CGO) $(SIMD) $(GO) build -tags cuda -o bin/bench-kernels ./bench/kernels
	@rm -f build/cublas.json; $(PYTHON) bench/kernels/cublas.py $(or $(DEVICE),0) build/cublas.json || echo 'cuBLAS is not compared'
	bin/bench-kernels -device $(or $(DEVICE),0) $(FULL) -json bench/results/kernels.json -md bench/results/kernels.md $$(test -f build/cublas.json && echo -cublas build/cublas.json)

gpu-bundle: build-cuda jetson ## build/ellm-gpu-bundle.tar.xz: tests and measurements for any machine with a GPU
	$(CGO) bench/bundle/make build/ellm-gpu-bundle.tar.xz

clean: ## remove what was built (not models/)
	rm -rf bin build
	rm -f gpu/driver/cuda/kernels/*.cubin gpu/driver/cuda/kernels/*.ptx
