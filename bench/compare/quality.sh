#!/usr/bin/env bash
# What does a byte buy? Compresses a 16-bit model with our schemes and, if llama.cpp is there, has it quantize the same file; then compares all
# with the original's predictions (KL divergence, docs/quality.md). Ours are made as large as llama.cpp's files, or at most a little smaller.
# Writes bench/results/quality_MODEL.json, .md and .svg. What the JSON file holds already is not measured again, so a run can be interrupted.
#
# usage: bench/compare/quality.sh MODEL.gguf TEXT [options]
#   --peer DIR                directory with llama-quantize, llama-perplexity and llama-imatrix; without it only our rows
#   --chunks N                use the first N × 512 tokens of TEXT (10)
#   --unseen FILE             compare on this text, too (--unseen-chunks: 6), which should be of another kind than those before
#   --calibrate FILE          also calibrate with this text, llama.cpp with an imatrix of it (--calibrate-chunks: 28); it must not overlap TEXT
#   --calibrate-tokens N      how much of it we read (as much as llama.cpp); once for all sizes
#   --own-tokens N            also calibrate with N tokens that the model writes itself; no data is needed for that, so llama.cpp's side gets no imatrix
#   --calibration FILE, --own-calibration FILE   what compress --save-calibration has saved of those texts, if there is something
#   --sizes '…'               what to compress to: bytes, bits per weight (4.5bpw), or llama.cpp's types (Q4_K_M, or a share of one: 0.85*Q4_K_M)
#   --types '…'               which types llama.cpp makes
#   --logits FILE, --unseen-logits FILE   the original's predictions, if saved already
#   --again                   measure ours again
#   --work DIR                where files go that are deleted once measured, and those predictions (build/compare/MODEL)
#   --device D, --out DIR
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,21s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/quality.py" --ellm "${ELLM:-$here/../../bin/ellm-gpu}" "$@"
