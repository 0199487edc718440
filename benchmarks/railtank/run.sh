#!/usr/bin/env bash
# The whole method on 173 clips of four classes filmed by fixed cameras: `run.sh VIDEOS PICTURES OUT`.
# VIDEOS has the files that train.txt and test.txt name; PICTURES is an ImageNet-like tree. Nothing of test.txt is trained on.
# The figures in docs/log.md were measured with the nano recipes before 28 November 2026: a smaller model, and tubes.
# The second fine-tuning, from scratch, is the comparison: the same recipe, steps and clips.
set -euo pipefail
videos=$1 pictures=$2 out=$3 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1

pool=(--recipe nano_video --root "$videos" --set pool.stride=4 --set pool.long=thin --set pool.short_side_px=96 --set sources_per_part=16)
train=(tokenize --dataset list --list "$here/train.txt" "${pool[@]}" --out "$out/train")
bevt "${train[@]}" --frames-only
bevt tokenize --dataset list --list "$here/test.txt" "${pool[@]}" --out "$out/test" --frames-only
images=(tokenize --dataset imagenet --recipe nano_image --root "$pictures" --out "$out/images")
bevt "${images[@]}" --frames-only
bevt tokenizer train dvae --recipe nano_tokenizer --frames "$out/train/frames" --frames "$out/images/frames" \
  --set input_px=64 --out "$out/dvae"
bevt "${train[@]}" --tokenizer "$out/dvae/tokenizer" --set views.num_views=8
bevt "${images[@]}" --tokenizer "$out/dvae/tokenizer" --set views.num_views=8
bevt train joint --recipe nano_joint --nproc 2 --video-tokens "$out/train/tokens/dvae-v8" \
  --image-tokens "$out/images/tokens/dvae-v8" --set loop.epochs=300 --set optim.warmup_epochs=10 --out "$out/joint"

tune=(finetune folder --recipe nano_finetune --nproc 2 --frames "$out/train/frames" --val-frames "$out/test/frames"
  --set sampling.kind=uniform --set global_batch=16 --set loop.epochs=150 --set optim.warmup_epochs=5 --set validate_every_epochs=30
  --set "augment.area_share=[0.5,1.0]" --set "augment.aspect=[0.75,1.33]"
  --set augment.crop_px=96 --set views.short_side_px=96 --set ema_decay=0.99)
bevt "${tune[@]}" --init "$out/joint" --out "$out/finetune"
bevt "${tune[@]}" --out "$out/scratch"
bevt evaluate "$out/finetune" --frames "$out/test/frames" --crops 3 --out "$out/evaluate" --json
bevt evaluate "$out/scratch" --frames "$out/test/frames" --crops 3 --out "$out/evaluate-scratch" --json
