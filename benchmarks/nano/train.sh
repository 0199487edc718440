#!/usr/bin/env bash
# Make the weights and the tokenizer that ship with the package, from nothing but photographs of the wheels:
#   benchmarks/nano/train.sh OUT
#
# Ends with OUT/runs/joint/weights.safetensors (bevt-nano) and OUT/runs/tokenizer/tokenizer (dvae-nano). Run it again
# after an interruption: every command continues or is skipped. bf16 needs a CPU with AVX-512 BF16 to be fast.
set -euo pipefail
out=$(realpath -m "${1:?the folder to write}")  # of the caller's folder
cd "$(dirname "$0")/../.."
bevt=${BEVT:-.venv/bin/bevt}
clips=${CLIPS:-16384} pictures=${PICTURES:-8192} joint_epochs=${JOINT_EPOCHS:-14} seed=${SEED:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
pictures_of=(--dataset folder --recipe nano_image --root "$out/raw/images" --out "$out/images")
clips_of=(--dataset folder --recipe nano_video --root "$out/raw/unlabelled" --out "$out/videos" --set sources_per_part=1024)

trained() { # the run's directory, then the command
    local run=$1 resume=(); shift
    if [ -f "$run/weights.safetensors" ] || [ -d "$run/tokenizer" ]; then return; fi
    if [ -f "$run/run.json" ]; then resume=(--resume); fi
    "$bevt" "$@" --out "$run" --set "loop.seed=$seed" --set loop.log_every=100 "${resume[@]}"
}

"$bevt" demo-videos "$out/raw" --clips 1 --unlabelled "$clips" --images "$pictures" --seed "$seed"
"$bevt" tokenize "${pictures_of[@]}" --frames-only
"$bevt" tokenize "${clips_of[@]}" --frames-only
trained "$out/runs/tokenizer" tokenizer train dvae --recipe nano_tokenizer --set loop.epochs=4 \
    --set "frames=[$out/images/frames,$out/videos/frames]"
"$bevt" tokenize "${pictures_of[@]}" --tokenizer "$out/runs/tokenizer/tokenizer"
"$bevt" tokenize "${clips_of[@]}" --tokenizer "$out/runs/tokenizer/tokenizer"
tokens=(--image-tokens "$out/images/tokens/dvae-v2")
trained "$out/runs/image" train image --recipe nano_image "${tokens[@]}" --set loop.precision=bf16 --set loop.epochs=5
trained "$out/runs/joint" train joint --recipe nano_joint "${tokens[@]}" --video-tokens "$out/videos/tokens/dvae-v2" \
    --init "$out/runs/image" --set loop.precision=bf16 --set "loop.epochs=$joint_epochs" --set loop.checkpoint_every=500
