#!/usr/bin/env bash
# Is the forward pass right? Imports a GGUF file with --lossless, so that both programs hold the same weights, and compares with llama.cpp:
# the same 64 greedy tokens on five prompts (or a first difference between candidates that tie), and the perplexity of a text.
#
# llama.cpp rounds activations to 8 bits where weights are quantized, which alone changes greedy texts. So tokens are compared with what it makes of
# the same weights expanded to F32 (exact, but four bytes per weight); what it makes of the file as it is goes into the result, too. Perplexity is that of the file as it is.
#
# usage: bench/compare/llama_cpp.sh PEER_BIN MODEL.gguf TEXT [--chunks N] [--no-ppl] [--no-as-is] [--device D] [--out RESULT.json]
#   PEER_BIN  directory with llama-completion, llama-perplexity and llama-quantize
#   TMPDIR    where the expanded model goes
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/llama_cpp.py" --ellm "${ELLM:-$here/../../bin/ellm-gpu}" "$@"
