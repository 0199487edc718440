#!/usr/bin/env bash
# Make the tokenizer `dvae-small` that ships with the package, from nothing but photographs of the wheels:
#   benchmarks/dvae_small/train.sh OUT
#
# Ends with OUT/dvae-small, in half precision. Run it again after an interruption: every command continues or is skipped.
set -euo pipefail
out=$(realpath -m "${1:?the folder to write}")  # of the caller's folder
cd "$(dirname "$0")/../.."
bevt=${BEVT:-.venv/bin/bevt} python=${PYTHON:-.venv/bin/python}
pictures=${PICTURES:-8192} seed=${SEED:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[ -d "$out/pictures" ] || {
    rm -rf "$out/pictures.part"
    PYTHONPATH=. "$python" benchmarks/dvae_small/pictures.py "$out/pictures.part" --count "$pictures"
    mv "$out/pictures.part" "$out/pictures"
}
$bevt tokenize --dataset folder --recipe nano_image --root "$out/pictures" --out "$out/store" --frames-only \
    --set pool.short_side_px=144 --set pool.jpeg_quality=95 --set sources_per_part=1024
resume=()
if [ -f "$out/run/run.json" ]; then resume=(--resume); fi
[ -d "$out/run/tokenizer" ] || $bevt tokenizer train dvae --recipe small_tokenizer --frames "$out/store/frames" --out "$out/run" \
    --set "loop.seed=$seed" --set loop.num_workers=0 "${resume[@]}"
[ -d "$out/dvae-small" ] || PYTHONPATH=. "$python" benchmarks/dvae_small/pack.py "$out/run/tokenizer" "$out/dvae-small"
