"""The benchmarks of training and loading, as commands. Heavy imports are inside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bevt_core.console.command_line import AsJson, Overrides, overrides_of
from bevt_core.console.terminal import emit, note, show, warn
from schemas.errors import UserError
from trainer.commands.options import Frames, memory_of, sources_of
from trainer.recipes import TRAINER_RECIPES

if TYPE_CHECKING:
    import torch

    from trainer.bench.subject import Subject


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
      bevt bench loader --video-tokens datasets/k400/tokens/dalle-v8 --root /data/k400 --json
      bevt bench loader --finetune --frames datasets/k400-dense/frames --root /data/k400 --json
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


def tune(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Recipe of bevt train or bevt finetune: its name, or a .yaml file.")],
    video_tokens: Annotated[
        str | None, typer.Option(help="Pretraining: token set of the video stream (default: the recipe's).")
    ] = None,
    image_tokens: Annotated[
        str | None, typer.Option(help="Pretraining: token set of the image stream (default: the recipe's).")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Fine-tuning: root of the training files (default: the recipe's).")
    ] = None,
    frames: Frames = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes of the run to tune for; one is measured.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to measure each number of loader processes.")] = 3.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be measured, and stop.")] = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Measure a recipe on this machine, and print its fastest settings.

    Micro-batches of several sizes are tried in the recipe's precision, with activation checkpointing where they do not
    fit without it, then several numbers of loader processes. The batch of a step stays the recipe's. A setting is
    changed only if that saves more than 2 % of the time.

    If the recipe's data does not exist here, only the model is measured, with random batches.

    \b
    Examples:
      bevt tune joint_swin_base_k400_in1k --nproc 8
      bevt tune nano_video --video-tokens datasets/mine/tokens/dvae-v2 --set streams.video.global_batch=16
      bevt tune finetune_diving48_swin_base --root /data/diving48 --json
    """
    from trainer.bench.tune import describe, trials_of
    from trainer.bench.tune import tune as run
    from trainer.distributed.world import join_world

    given = {"streams.video.tokens": video_tokens, "streams.image.tokens": image_tokens}
    with join_world() as world:
        if world.size > 1:
            raise UserError(f"`nproc`: one process is measured; start it without torchrun, with --nproc {world.size}")
        subject = _subject(context, recipe, given, root, frames, set_ or [], world.device)
        trials = trials_of(subject, world, nproc, memory_of(None, set_))
        if subject.samples is None:
            note(f"{subject.data} does not exist: the model is measured with random batches, and no loader")
        if dry_run:
            emit(
                {"dry_run": True, **describe(trials), "micro_batches": trials.numbers, "workers": trials.workers}, json_
            )
            return
        found = run(trials, seconds)
    if json_:
        emit(found, json_)
        return
    options = found.pop("set")
    emit(found, json_)
    if options:
        show("fastest: " + " ".join(f"--set {option}" for option in options))
    else:
        warn("nothing could be measured: even the smallest micro-batch does not fit the memory, or takes too long")


def _subject(
    context: typer.Context,
    recipe: str,
    given: dict[str, str | None],
    root: Path | None,
    frames: str | None,
    overrides: list[str],
    device: "torch.device",
) -> "Subject":
    """Return what is measured of `recipe`: on the data that are `given`, else on its own if they exist."""
    from schemas.recipes import FinetuneRecipe, PretrainRecipe
    from schemas.recipes.loading import load_recipe
    from trainer.bench.subject import finetune_subject, made_subject, missing_data, stored_subject
    from trainer.clips.selection import ClipSelection, Reading, train_and_val
    from trainer.pretrain.follow_tokens import follow_tokens

    loaded = load_recipe(recipe, TRAINER_RECIPES, overrides)
    if isinstance(loaded, PretrainRecipe):
        for name, value in (("root", root), ("frames", frames)):
            if value is not None:
                raise UserError(f"`{name}` {value}: the recipe {recipe!r} is for `bevt train`; give `video_tokens`")
        overrides = [*overrides, *overrides_of(given)]
        loaded = load_recipe(recipe, TRAINER_RECIPES, overrides)
        assert isinstance(loaded, PretrainRecipe)
        missing = missing_data(loaded)
        if missing is not None and missing not in given.values():
            return made_subject(loaded, missing, device)
        loaded, followed = follow_tokens(loaded, overrides)
        for line in followed:
            note(line)
        return stored_subject(loaded, device)
    if not isinstance(loaded, FinetuneRecipe):
        raise UserError(f"recipe {recipe!r} is of kind {loaded.kind}; give one of bevt train or bevt finetune")
    for key, value in given.items():
        if value is not None:
            raise UserError(f"{key} {value}: the recipe {recipe!r} is for `bevt finetune`; give `root` or `frames`")
    if root is None and frames is None and missing_data(loaded) is not None:
        return finetune_subject(loaded, None, device)
    train, _ = train_and_val(
        sources_of(context),
        loaded.dataset,
        ClipSelection(Path(loaded.root) if root is None and frames is None else root, frames),
        ClipSelection(prefix="val_"),
        loaded.val_share,
        loaded.label_share,
        loaded.loop.seed,
        Reading(False, loaded.decode_timeout_s),
    )
    return finetune_subject(loaded, train, device)
