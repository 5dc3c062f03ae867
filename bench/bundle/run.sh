#!/usr/bin/env bash
# Checks and measures ellm-gpu on the GPU of this machine.
#
#   ./run.sh [FOLDER FOR RESULTS]        default: results
#   DEVICE=1 ./run.sh                    another GPU than the first
#   MODEL=file.ellm ./run.sh             also measures that model
#   RESUME=1 ./run.sh                    goes on after an interruption: leaves out the steps that have a result
#   SLOW=3 ./run.sh                      three times the time limits of the steps; LIMIT=60: 60 s for each step
#
# Needs an NVIDIA driver (CUDA 10.2 or later), bash 4.4, and nothing else. With nvcc and cmake (3.10 or later) it also compiles the kernels
# here and repeats the tests with them; with compute-sanitizer or cuda-memcheck it runs tests under their tools. The report is written after
# every step, so that it is there whatever happens to a later one. Exit codes: 0 all passed, 1 something failed, 3 there is no usable
# GPU and nothing was measured.
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
[ -n "${RESUME:-}" ] || rm -f "$out/steps.tsv"
touch "$out/steps.tsv"

"$bin" devices --json >"$out/devices.json"
why=$("$bin" devices | awk -v d="$device" '$1 == d && /not available/ {sub(/^[^:]*: /, ""); print}')
if [ -n "$why" ] || ! grep -q "\"device\": *\"$device\"" "$out/devices.json"; then
  echo "Device $device cannot be used: ${why:-there is no such GPU}" >&2
  echo 'Nothing was tested or measured. On a Jetson: is the user in group video (sudo usermod -aG video $USER, then log in again)?' >&2
  exit 3
fi
"$bin" devices

python=$(command -v python3 || true)
report() {
  [ -z "$python" ] || "$python" report.py "$out" "$(cat VERSION)"
}

# step NAME SECONDS COMMAND…: runs it for so long at most, its output in logs/NAME, and notes how it went. A step that only has "started"
# when the report is written ended with the machine or with this script.
failed=0
step() {
  local name=$1 limit=$((${LIMIT:-$2} * ${SLOW:-1})) start=$SECONDS result=failed note=
  shift 2
  if [ -n "${RESUME:-}" ] && grep -qE "^$name	(passed|failed|skipped)	" "$out/steps.tsv"; then
    printf '== %s: has a result\n' "$name"
    return
  fi
  printf '== %s\n' "$name"
  printf '%s\tstarted\t0\t\n' "$name" >>"$out/steps.tsv"
  sync
  limited "$limit" "$@" >"$out/logs/$name" 2>&1
  case $? in
  0) result=passed ;;
  124) note="ended after $limit s (SLOW=3 triples the limits)" ;;
  137) note='killed: by the kernel for lack of memory?' ;;
  77)
    result=skipped
    note=$(tail -n 1 "$out/logs/$name")
    ;;
  esac
  case $result in
  failed)
    failed=1
    tail -n 15 "$out/logs/$name"
    [ -z "$note" ] || echo "$note"
    ;;
  skipped) echo "SKIPPED: $note" ;;
  esac
  printf '%s\t%s\t%s\t%s\n' "$name" $result $((SECONDS - start)) "$note" >>"$out/steps.tsv"
  report
}
skip() {
  printf '== %s\nSKIPPED: %s\n' "$1" "$2"
  printf '%s\tskipped\t0\t%s\n' "$1" "$2" >>"$out/steps.tsv"
}

# limited SECONDS COMMAND…: the command, or a function of this script, in a process group of its own that ends after so long; then 124.
limited() {
  local limit=$1 began=$SECONDS pid watch status
  shift
  set -m
  ("$@") &
  pid=$!
  (sleep "$limit" && kill -TERM -- -$pid && sleep 5 && kill -KILL -- -$pid) >/dev/null 2>&1 &
  watch=$!
  set +m
  wait $pid
  status=$?
  kill -- -$watch 2>/dev/null
  wait $watch 2>/dev/null
  # The group's leader may be gone while others of the group ignore the signal.
  for _ in 1 2 3 4 5; do
    kill -0 -- -$pid 2>/dev/null || break
    sleep 1
  done
  kill -KILL -- -$pid 2>/dev/null
  [ $status -lt 128 ] || [ $((SECONDS - began)) -lt "$limit" ] || status=124
  return $status
}

on_gpu() { (cd "$arch" && ELLM_TEST_DEVICE=$device "$@"); }
tool() { command -v "$1" || ls "/usr/local/cuda/bin/$1" 2>/dev/null; }

step driver 300 ./$arch/cuda.test -test.v -test.run 'TestOpen|TestNoLibcuda'
step rates 300 ./$arch/kernels -device "$device" -rates "$out/rates.json"
step kernels 1800 on_gpu ./gpu.test -test.v -test.timeout 0

tiny=$out/tiny.ellm
step compress 300 "$bin" compress tiny-llama.gguf -o "$tiny" --lossless
same() { # greedy tokens on the CPU and under each plan on the GPU
  local plan
  "$bin" run "$tiny" --raw -p 'Once upon a time' -n 64 --temp 0 --ignore-eos --device cpu >"$out/logs/cpu.txt" || return 1
  for plan in resident fused; do
    "$bin" run "$tiny" --raw -p 'Once upon a time' -n 64 --temp 0 --ignore-eos --device "$device" --plan $plan >"$out/logs/$plan.txt" || return 1
    cmp "$out/logs/cpu.txt" "$out/logs/$plan.txt" || return 1
  done
  echo equal
}
step end-to-end 600 same
measure() { # NAME MODEL
  local plan status=0
  "$bin" plan "$2" --device "$device" --ctx 512 --json >"$out/predicted-$1.json" || status=1
  for plan in resident fused; do
    "$bin" bench "$2" --device "$device" --plan $plan --json >"$out/bench-$1-$plan.json" || { echo "plan $plan: not measured"; status=1; }
  done
  return $status
}
step bench-tiny 600 measure tiny "$tiny"
if [ -n "$model" ]; then step bench-model 3600 measure model "$model"; else skip bench-model 'MODEL=file.ellm names one'; fi

compare=()
if [ -z "$python" ]; then
  skip cublas 'no python3 here'
elif "$python" cublas.py "$device" "$out/cublas.json" >"$out/logs/cublas" 2>&1; then
  compare=(-cublas "$out/cublas.json")
else
  skip cublas "$(tail -n 1 "$out/logs/cublas")"
fi
# ${compare[@]+…}: bash 4.3 and older take an empty array for an unset variable.
step products 3600 ./$arch/kernels -device "$device" -json "$out/products.json" -md "$out/products.md" ${compare[@]+"${compare[@]}"}

checked='TestDecodeBitForBit|TestProducts$|TestAttention|TestEmbedRows|TestXPrepare'
under() { # TOOL PROGRAM: exit 77 where it cannot attach, as on Jetson boards without root
  local status=0
  on_gpu "$2" --tool "$1" --error-exitcode 9 ./gpu.test -test.v -test.timeout 0 -test.run "$checked" || status=$?
  return $status
}
sanitizer=$(tool compute-sanitizer || tool cuda-memcheck)
for t in memcheck racecheck synccheck initcheck; do
  if [ -z "$sanitizer" ]; then
    skip $t 'neither compute-sanitizer nor cuda-memcheck here'
    continue
  fi
  attach() { # where the tool cannot attach the step is left out
    under "$1" "$sanitizer"
    local status=$?
    if grep -qiE 'not supported|unable to attach|failed to attach|requires root|insufficient permission|unrecognized option' "$out/logs/$1"; then
      echo "$(basename "$sanitizer") --tool $1 cannot be used here"
      return 77
    fi
    return $status
  }
  step $t 1800 attach $t
done

nvcc=$(tool nvcc)
if [ -z "$nvcc" ]; then
  skip native-kernels 'no nvcc here'
elif ! command -v cmake >/dev/null; then
  skip native-kernels 'no cmake here'
else
  # For this GPU only: a Jetson Nano takes several minutes for each.
  cc=$(grep -A12 "\"device\": *\"$device\"" "$out/devices.json" | sed -n 's/.*"cc": *"\([0-9]*\)\.\([0-9]*\)".*/\1\2/p' | head -n 1)
  native() {
    mkdir -p build && cd build && cmake -DELLM_NVCC="$nvcc" -DELLM_OUTPUT="$out/native" -DELLM_ARCHS="${ARCHS:-$cc}" -DELLM_PTX= ../src &&
      cmake --build . --target kernels && cd .. && ls -l "$out/native/kernels" && ELLM_KERNELS=$out/native/kernels on_gpu ./gpu.test -test.v -test.timeout 0
  }
  step native-kernels 5400 native
fi

if [ -n "$python" ]; then
  report && echo "results: $out/report.json, $out/report.md"
else
  echo "no python3 here: report.json and report.md were not written; the raw results are in $out"
fi
exit $failed
