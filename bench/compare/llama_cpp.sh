#!/usr/bin/env bash
# Is the forward pass right? Imports a GGUF file with --lossless, so that both programs hold the same weights, and compares with llama.cpp:
# the same 64 greedy tokens on five prompts (or a first difference between candidates that tie), and the perplexity of a text.
#
# usage: bench/compare/llama_cpp.sh PEER_BIN MODEL.gguf TEXT [--chunks N] [--f32] [--no-ppl] [--out RESULT.json]
#   PEER_BIN  directory with llama-completion and llama-perplexity (and llama-quantize for --f32)
#   --f32     let llama.cpp run the same weights expanded to F32: without that it also rounds activations to 8 bits
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/llama_cpp.py" --ellm "$here/../../bin/ellm-gpu" "$@"
