# The project's only build interface; "make help" lists the targets.

GO      ?= go
CMAKE   ?= cmake
PYTHON  ?= python3
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Where pure Go programs for Linux begin (cli/ellm-gpu/entry_linux_*.s).
ifneq ($(filter linux/amd64 linux/arm64,$(shell $(GO) env GOOS)/$(shell $(GO) env GOARCH)),)
ENTRY := -E main.start
endif
PKG     := ./cli/ellm-gpu
TOOLS   := -modfile=internal/tools/go.mod
NVCC    := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))

# simd/archsimd exists on amd64 only; everything builds without it too.
ifeq ($(shell $(GO) env GOARCH),amd64)
SIMD := GOEXPERIMENT=simd
endif

# gorgonia.org/cu is compiled with this project's cuda.h and linked with a stub of the driver library: no toolkit is needed.
STUB := build/stub/libcuda.so
CGO  := CGO_ENABLED=1 CGO_CFLAGS="-I$(CURDIR)/gpu/driver/cuda/libcuda/include $${CGO_CFLAGS--g -O2}" \
	CGO_LDFLAGS="-L$(CURDIR)/build/stub $${CGO_LDFLAGS--g -O2}"

# $(call cmake_build,OPTIONS,TARGETS), as CMake 3.10 of JetPack 4.6 can: no -S and -B, one target at a time.
cmake_build = mkdir -p build/cmake && cd build/cmake && $(CMAKE) $(1) ../.. && for t in $(2); do $(CMAKE) --build . --target $$t -- -j$(JOBS) || exit 1; done

# MODEL=file.gguf makes "make demo" and "make bench" use that model instead of obtaining SmolLM2-135M-Instruct.
DEMO_GGUF  := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL      ?= $(DEMO_GGUF)
DEMO_ELLM   = models/$(basename $(notdir $(MODEL))).ellm
PROMPT     ?= In one sentence: what is a Huffman code?
TEXT       ?= wiki.test.raw
PEER       ?= llama.cpp/build/bin

.PHONY: help build build-cuda kernels emu nvcc test test-go test-driver test-kernels lint docs notices vuln demo bench bench-compare compare
.PHONY: sass fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/ellm-gpu in pure Go
	CGO_ENABLED=0 $(SIMD) $(GO) build -trimpath -ldflags '$(LDFLAGS) $(ENTRY)' -o bin/ellm-gpu $(PKG)

build-cuda: kernels $(STUB) ## bin/ellm-gpu with GPU support; starts without a GPU too
	$(CGO) $(SIMD) $(GO) build -tags cuda -trimpath -ldflags '$(LDFLAGS)' -o bin/ellm-gpu $(PKG)

$(STUB): gpu/driver/cuda/libcuda/stub.c gpu/driver/cuda/libcuda/functions.h
	mkdir -p build/stub
	$(CC) -shared -fPIC -O1 -Wl,-soname,libcuda.so.1 -o $@ $<

kernels: ## the CUDA kernels with nvcc, compressed into gpu/driver/cuda/kernels (embedded by build-cuda)
ifeq ($(NVCC),)
	@echo 'nvcc was not found. "make nvcc" installs it on Debian and Ubuntu; elsewhere install the CUDA toolkit (10.2 to 12.9) and put nvcc on PATH.' >&2; exit 1
else
	$(call cmake_build,-DELLM_CUDA=ON -DELLM_NVCC=$(NVCC),kernels)
	rm -f gpu/driver/cuda/kernels/*
	for f in build/kernels/*.cubin build/kernels/*.ptx; do gzip -nc $$f >gpu/driver/cuda/kernels/$${f##*/}.gz || exit 1; done
endif

emu: ## bin/ellm-emu, which runs the kernels on the CPU, and build/emu-driver/libcuda.so.1, a driver library that does
	$(call cmake_build,,ellm-emu ellm-emu-fast emu-libcuda emu-selftest)
	mkdir -p bin
	cp --remove-destination build/ellm-emu build/ellm-emu-fast bin/

nvcc: ## install nvcc (Debian, Ubuntu; as root or with sudo)
	.ci/install-nvcc

test: lint emu test-go test-driver test-kernels ## all checks; compiles the kernels if nvcc is there

lint: ## formatting, go vet, staticcheck, go.mod, line widths, retired words, licences
	@bad=$$(gofmt -l cli cpu format gpu internal bench); if [ -n "$$bad" ]; then echo "gofmt would change:" $$bad >&2; exit 1; fi
	$(SIMD) $(GO) vet ./...
	$(GO) mod tidy -diff
	$(SIMD) $(GO) tool $(TOOLS) staticcheck ./...
	$(GO) test ./internal/lint ./internal/layers ./internal/notices

docs: ## docs/cli.md and bin/ellm-gpu.1 from the program
	@mkdir -p bin
	$(GO) run $(PKG) docs > docs/cli.tmp && mv docs/cli.tmp docs/cli.md
	$(GO) run $(PKG) docs --man > bin/ellm-gpu.1

fuzz: ## every fuzz target for FUZZTIME (20s each; FUZZ=name: only those), with how many inputs each tried
	$(SIMD) .ci/fuzz $(or $(FUZZTIME),20s) $(FUZZ)

notices: ## THIRD_PARTY_NOTICES from go.mod; fails for licences that may not be linked
	$(GO) run ./internal/notices > notices.tmp && mv notices.tmp THIRD_PARTY_NOTICES

vuln: ## known vulnerabilities in what the program calls (asks vuln.go.dev)
	$(SIMD) $(GO) tool $(TOOLS) govulncheck ./...

# The CPU packages have generic and vectorized forms: both are tested.
test-go:
	build/cmake/emu-selftest
	ELLM_EMU=$(CURDIR)/bin/ellm-emu ELLM_REQUIRE_EMU=1 $(SIMD) $(GO) test ./...
	GOEXPERIMENT=nosimd $(GO) test ./cpu/... ./internal/engine/... ./internal/huffman/...
	cd internal/asm && $(GO) vet ./arm64 && $(GO) test ./arm64

# What talks to a driver runs on a driver with the emulator behind it, as several devices.
test-driver: emu $(STUB)
	$(CGO) $(GO) vet -tags cuda ./gpu/... ./cli/... ./bench/kernels
	ELLM_EMU=$(CURDIR)/bin/ellm-emu $(CGO) .ci/test-driver build/emu-driver

ifeq ($(NVCC),)
test-kernels:
	@echo 'SKIPPED: nvcc was not found, so the kernels were tested in the emulator but not compiled for GPUs ("make nvcc" installs it)'
else
test-kernels: kernels
	$(GO) test -count 1 -run PTX ./gpu/driver/cuda
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

# Also CHUNKS=n of the text, TASKS=n of each file, PAPER='further options of bench/paper/paper.py'.
paper: build $(MODEL) ## EntroLLM's tables next to the paper's: MODEL=f16.gguf TEXT=file HELLASWAG=file GSM8K=file (docs/paper.md)
	$(PYTHON) bench/paper/paper.py bin/ellm-gpu $(MODEL) --text $(TEXT) --hellaswag $(or $(HELLASWAG),bench/paper/hellaswag.jsonl) \
		--gsm8k $(or $(GSM8K),bench/paper/gsm8k.jsonl) $(if $(CHUNKS),--chunks $(CHUNKS)) $(if $(TASKS),--tasks $(TASKS)) $(PAPER)

soak: ## 32 clients at once for a while: SOAK=10m
	ELLM_SOAK=$(or $(SOAK),60s) $(SIMD) $(GO) test -count 1 -timeout 0 -run TestManyClientsAtOnce -v ./internal/serve

# LM_EVAL=path/to/lm_eval where it is not on PATH; it is large, so it is not installed here.
test-clients: build ## foreign clients against the server: OpenAI's, Anthropic's, ollama's, LangChain (installs them below build/), lm_eval
	internal/serve/clients/run build/clients/python build/clients/node $(LM_EVAL)

bench-serve: build $(DEMO_ELLM) ## the server's time to first token and tokens per second, beside llama.cpp's (PEER=dir with llama-server)
	$(PYTHON) bench/compare/serve.py --ours bin/ellm-gpu $(DEMO_ELLM) $(if $(wildcard $(PEER)/llama-server),--peer $(PEER)/llama-server $(MODEL))

.PHONY: soak paper test-clients bench-serve asm kernel-counts bench-kernels jetson test-jetson gpu-bundle

asm: ## generate the Go assembly again (internal/asm)
	cd internal/asm && for p in decode:cpu/decode/chunk dot:cpu/dot/dot linalg:internal/linalg/gemm; do \
		out=../../$${p#*:}_amd64; dir=$$(dirname $$out); \
		$(GO) run . $${p%%:*} -out $$out.s -stubs $$out.go -pkg $$(basename $$dir) || exit 1; done
	cd internal/asm && for p in dot:cpu/dot/dot floats:cpu/vec/floats linalg:internal/linalg/gemm; do \
		$(GO) run ./arm64 $${p%%:*} ../../$${p#*:}_arm64 || exit 1; done

kernel-counts: kernels ## instruction counts of the compiled kernels, for predictions
	$(GO) run ./bench/sass -arch sm_53,sm_86,sm_90 -json internal/predict/kernels.json build/kernels

jetson: kernels ## bin/ellm-gpu-jetson for Jetson boards (aarch64, glibc 2.27), with GPU support
	.ci/install-zig build/zig
	ZIG=$(CURDIR)/build/zig/zig .ci/build-jetson bin/ellm-gpu-jetson $(VERSION)

test-jetson: ## build the Jetson program and run its CPU half under qemu
	.ci/test-jetson

bench-kernels: kernels $(STUB) ## products in the shapes of real models on GPU 0 (DEVICE=1: another; FULL=-full: more cases), into bench/results
	$(CGO) $(SIMD) $(GO) build -tags cuda -o bin/bench-kernels ./bench/kernels
	@rm -f build/cublas.json; $(PYTHON) bench/kernels/cublas.py $(or $(DEVICE),0) build/cublas.json || echo 'cuBLAS is not compared'
	bin/bench-kernels -device $(or $(DEVICE),0) $(FULL) -json bench/results/kernels.json -md bench/results/kernels.md $$(test -f build/cublas.json && echo -cublas build/cublas.json)

gpu-bundle: build-cuda jetson ## build/ellm-gpu-bundle.tar.xz: tests and measurements for any machine with a GPU
	$(CGO) bench/bundle/make build/ellm-gpu-bundle.tar.xz

clean: ## remove what was built (not models/)
	rm -rf bin build
	rm -f gpu/driver/cuda/kernels/*
