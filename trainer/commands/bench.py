"""The benchmarks of training and loading, as commands. Heavy imports are inside them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bevt_core.console.command_line import AsJson, Overrides
from bevt_core.console.terminal import emit
from schemas.errors import UserError
from trainer.recipes import TRAINER_RECIPES


def bench_step(
    size: Annotated[str, typer.Option(help="Model size: nano, tiny, small, base or large.")] = "tiny",
    clips: Annotated[int, typer.Option(min=1, help="Clips per step.")] = 1,
    images: Annotated[int, typer.Option(min=1, help="Images per step; the original has 8 per clip.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps; medians are reported.")] = 5,
    device: Annotated[
        Literal["cpu", "cuda"],
        typer.Option(help="cpu: comparison with the original's step. cuda: this code's step alone."),
    ] = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="cuda: precision of matrix products.")
    ] = "bf16",
    attention: Annotated[
        Literal["auto", "triton", "sdpa", "math"], typer.Option(help="cuda: implementation of window attention.")
    ] = "auto",
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="cuda: recomputation of blocks in the backward pass.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="cuda: compilation of each block (loop.compile=blocks).")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Measure a training step with stored tokens.

    On a CPU, a joint step is compared with one that runs the tokenizer; on a GPU, its parts are measured.

    GPU results: milliseconds of forward, backward and optimizer by CUDA events, MFU, peak memory, and the number of
    times that the host waited for the GPU within a step.

    \b
    Examples:
      bevt bench step --size tiny --json
      bevt bench step --device cuda --size base --clips 16 --images 128
    """
    if device == "cpu":
        _refuse_gpu_options(attention=attention != "auto", activation_checkpointing=activation_checkpointing)
        _refuse_gpu_options(compile=compile_, precision=precision != "bf16")
        from bevt_core.bench.models import bench_step as compare

        emit(compare(size=size, clips=clips, images=images, repeats=repeats), json_)
        return
    from trainer.bench.step import bench_train_step

    measured: dict[str, Any] = bench_train_step(
        size=size,
        clips=clips,
        images=images,
        size_px=64 if size == "nano" else 224,
        device=device,
        precision=precision,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile_blocks=compile_,
        repeats=repeats,
    )
    emit(measured, json_)


def _refuse_gpu_options(**given: bool) -> None:
    for name, is_given in given.items():
        if is_given:
            raise UserError(f"--{name.replace('_', '-')} is for --device cuda; the comparison on a CPU runs in fp32")


def bench_loader(
    root: Annotated[Path, typer.Option(help="Root of the videos that the set or store was made from.")],
    video_tokens: Annotated[Path | None, typer.Option(help="Token set of videos, 224 px.")] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Fine-tuning clips instead: from --frames, compared with the files.")
    ] = False,
    frames: Annotated[str | None, typer.Option(help="--finetune: frame store (bevt tokenize --frames-only).")] = None,
    recipe: Annotated[str, typer.Option(help="--finetune: recipe of the clips.")] = "finetune_k400_swin_base",
    clips: Annotated[int, typer.Option(min=1, help="Clips per round, spread over the set.")] = 16,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed rounds of each kind, alternating, after one warm-up round.")
    ] = 8,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Measure clips per CPU-second from shards and from video files.

    Shards are compared with decord on the video files and with a bare JPEG loop.

    With --finetune: augmented clips from a frame store against the same clips from files; CPU time includes the
    decoding process. Keys:
    file_clips_per_cpu_s, store_clips_per_cpu_s, ratio_store_vs_files (of the two), mean_difference (of the pixels,
    0 to 255; null if the store does not have every frame, as the clips then differ), clips, repeats.

    \b
    Examples:
      bevt bench loader --video-tokens datasets/k400/tokens/dalle-v8 --root /data/k400/train --json
      bevt bench loader --finetune --frames datasets/k400-dense/frames --root /data/k400/train --json
    """
    from bevt_core.storage.objects import as_path
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.bench.clips import bench_clips
    from trainer.bench.loader import bench_loader as run

    if (frames if finetune else video_tokens) is None:
        raise UserError("give --video-tokens, a token set; or --finetune and --frames, a frame store")
    if finetune:
        assert frames is not None
        loaded = load_recipe_of(FinetuneRecipe, recipe, TRAINER_RECIPES, set_ or [])
        emit(bench_clips(as_path(frames), root, loaded, clips=clips, repeats=repeats), json_)
    else:
        assert video_tokens is not None
        emit(run(video_tokens, root, clips=clips, repeats=repeats), json_)
