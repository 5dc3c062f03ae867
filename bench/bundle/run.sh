#!/usr/bin/env bash
# Checks and measures ellm-gpu on the GPU of this machine.
#
#   ./run.sh [FOLDER FOR RESULTS]        default: results
#   DEVICE=1 ./run.sh                    another GPU than the first
#   MODEL=file.ellm ./run.sh             also measures that model
#
# Needs an NVIDIA driver (CUDA 10.2 or later) and nothing else. With nvcc and cmake it also compiles the kernels here and repeats the
# tests with them; with compute-sanitizer or cuda-memcheck it runs tests under that. Exit codes: 0 all passed, 1 something failed,
# 3 there is no usable GPU and nothing was measured.
set -uo pipefail
cd "$(dirname "$0")"
out=${1:-results}
device=${DEVICE:-0}
model=${MODEL:-}
arch=$(uname -m)
if [ ! -x "$arch/ellm-gpu" ]; then
  echo "There is no program for $arch in this bundle (there are: x86_64, aarch64). Build from source: make build-cuda" >&2
  exit 3
fi
bin=$PWD/$arch/ellm-gpu
mkdir -p "$out/logs"
out=$(cd "$out" && pwd)
: >"$out/steps.tsv"

"$bin" devices --json >"$out/devices.json"
why=$("$bin" devices | awk -v d="$device" '$1 == d && /not available/ {sub(/^[^:]*: /, ""); print}')
if [ -n "$why" ] || ! grep -q "\"device\": *\"$device\"" "$out/devices.json"; then
  echo "Device $device cannot be used: ${why:-there is no such GPU}" >&2
  echo 'Nothing was tested or measured. On a Jetson: is the user in group video (sudo usermod -aG video $USER, then log in again)?' >&2
  exit 3
fi
"$bin" devices

# step NAME COMMAND…: runs it, its output in logs/NAME, and notes how it went.
failed=0
step() {
  local name=$1 start=$SECONDS
  shift
  printf '== %s\n' "$name"
  if "$@" >"$out/logs/$name" 2>&1; then result=passed; else result=failed; failed=1; tail -n 15 "$out/logs/$name"; fi
  printf '%s\t%s\t%s\t\n' "$name" $result $((SECONDS - start)) >>"$out/steps.tsv"
}
skip() {
  printf '== %s\nSKIPPED: %s\n' "$1" "$2"
  printf '%s\tskipped\t0\t%s\n' "$1" "$2" >>"$out/steps.tsv"
}

on_gpu() { (cd "$arch" && ELLM_TEST_DEVICE=$device "$@"); }
step driver ./$arch/cuda.test -test.v -test.run 'TestOpen|TestNoLibcuda'
step kernels on_gpu ./gpu.test -test.v

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -z "$nvcc" ]; then
  skip native-kernels 'no nvcc here'
elif ! command -v cmake >/dev/null; then
  skip native-kernels 'no cmake here'
else
  native() {
    cmake -S src -B build -DELLM_NVCC="$nvcc" -DELLM_OUTPUT="$PWD/native" -DELLM_ARCHS="${ARCHS:-53;62;72;75;80;86;87;89;90;100;120}" &&
      cmake --build build --target kernels && ls -l native/kernels && ELLM_KERNELS=$PWD/native/kernels on_gpu ./gpu.test -test.v
  }
  step native-kernels native
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || command -v cuda-memcheck || ls /usr/local/cuda/bin/cuda-memcheck 2>/dev/null)
if [ -z "$sanitizer" ]; then
  skip sanitizer 'neither compute-sanitizer nor cuda-memcheck here'
else
  step sanitizer on_gpu "$sanitizer" --error-exitcode 9 ./gpu.test -test.v -test.run 'TestDecodeBitForBit|TestProducts$|TestAttention|TestEmbedRows|TestXPrepare'
fi

compare=()
if ! command -v python3 >/dev/null; then
  skip cublas 'no python3 here'
elif python3 cublas.py "$device" "$out/cublas.json" >"$out/logs/cublas" 2>&1; then
  compare=(-cublas "$out/cublas.json")
else
  skip cublas "$(tail -n 1 "$out/logs/cublas")"
fi
step microbenchmarks ./$arch/kernels -device "$device" -json "$out/products.json" -md "$out/products.md" "${compare[@]}"

tiny=$out/tiny.ellm
step compress "$bin" compress tiny-llama.gguf -o "$tiny" --lossless
same() { # greedy tokens on the CPU and under each plan on the GPU
  local plan
  "$bin" run "$tiny" --raw -p 'Once upon a time' -n 64 --temp 0 --ignore-eos --device cpu >"$out/logs/cpu.txt" || return
  for plan in resident fused; do
    "$bin" run "$tiny" --raw -p 'Once upon a time' -n 64 --temp 0 --ignore-eos --device "$device" --plan $plan >"$out/logs/$plan.txt" || return
    cmp "$out/logs/cpu.txt" "$out/logs/$plan.txt" || return
  done
  echo equal
}
step end-to-end same
measure() { # NAME MODEL
  local plan
  for plan in resident fused; do
    "$bin" bench "$2" --device "$device" --plan $plan --json >"$out/bench-$1-$plan.json" || echo "plan $plan: not measured"
  done
  "$bin" plan "$2" --device "$device" --ctx 512 --json >"$out/predicted-$1.json"
}
step bench-tiny measure tiny "$tiny"
if [ -n "$model" ]; then step bench-model measure model "$model"; else skip bench-model 'MODEL=file.ellm names one'; fi

if command -v python3 >/dev/null; then
  python3 report.py "$out" "$(cat VERSION)" && echo "results: $out/report.json, $out/report.md"
else
  echo "no python3 here: report.json and report.md were not written; the raw results are in $out"
fi
exit $failed
