"""`bevt train`, which pretrains. Heavy imports are inside it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import (
    AsJson,
    Nproc,
    Overrides,
    RecipeName,
    Resume,
    command_typed,
    overrides_of,
)
from bevt_core.console.terminal import emit, note, show
from schemas.errors import UserError
from trainer.commands.options import DryRun, MemoryGb, Tflops, memory_of
from trainer.commands.plan import Assume, Price, check_only_planned
from trainer.recipes import TRAINER_RECIPES

STAGE_RECIPES = {
    "image": "image_swin_base_in1k",
    "video": "video_swin_base_k400",
    "joint": "joint_swin_base_k400_in1k",
}


def train(
    stage: Annotated[str | None, typer.Argument(help="Stage: image (BEVT-I), video (BEVT-V) or joint.")] = None,
    video_tokens: Annotated[
        str | None, typer.Option(help="Token set of the video stream, also s3://, gs:// or az://.")
    ] = None,
    image_tokens: Annotated[
        str | None, typer.Option(help="Token set of the image stream, also s3://, gs:// or az://.")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME[:WEIGHT]",
            help="Targets to predict, named as the token sets beside the streams' (dalle or dalle-v8).",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Run, weights, packaged model (bevt model list) such as bevt-nano, or hf://ORG/NAME@REVISION to start "
            "from."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run (default: runs/<stage>).")] = None,
    recipe: RecipeName = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Run to repeat into --out, with its recipe and data.")
    ] = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    grown: Annotated[
        bool,
        typer.Option(
            "--grown", help="With --resume, after `bevt extend`: use the larger data set from the next epoch on."
        ),
    ] = False,
    dry_run: DryRun = False,
    tflops: Tflops = 100.0,
    memory_gb: MemoryGb = None,
    assume: Assume = None,
    price_per_gpu_hour: Price = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Pretrain from token sets: masked images, masked videos, or both jointly.

    Vocabulary, patch size and clip length follow from the token sets, unless --set overrides them.

    \b
    Examples:
      bevt train joint --video-tokens datasets/k400/tokens/dalle-v8 --image-tokens datasets/imagenet/tokens/dalle-v20
      bevt train image --recipe nano_image --image-tokens demo/images/tokens/dvae-v8 --out runs/image
      bevt train joint --targets dalle,vqkd:0.5
      bevt train joint --dry-run --nproc 8 --tflops 150 --memory-gb 80
      bevt train joint --dry-run --assume k400,in1k --nproc 32 --price-per-gpu-hour 2.5
      bevt train --from runs/joint --out runs/joint-again
    """
    from bevt_core.known_sets import known_sets
    from schemas.recipes import PretrainRecipe
    from schemas.recipes.loading import load_recipe_of, nearest
    from trainer.distributed.launch import launch
    from trainer.pretrain.follow_tokens import follow_tokens
    from trainer.pretrain.plan import plan_pretraining
    from trainer.pretrain.stage import dry_run as plan
    from trainer.pretrain.stage import pretrain as run
    from trainer.pretrain.streams import check_stage, check_token_options
    from trainer.pretrain.targets import with_targets
    from trainer.runs.directory import check_repeats, read_run
    from trainer.setup.estimate import Machine, dataset_facts, with_price

    given = {"streams.video.tokens": video_tokens, "streams.image.tokens": image_tokens, "init": init}
    overrides = [*(set_ or []), *overrides_of(given)]
    repeat_of = None
    if from_ is not None:
        if recipe is not None:
            raise UserError(f"--recipe {recipe}: --from {from_} already names the recipe, that run's; give only one")
        if targets is not None:
            raise UserError(f"--targets {targets}: --from {from_} already has that run's targets; give only one")
        repeated, repeat_of = read_run(from_)
        loaded = load_recipe_of(PretrainRecipe, str(from_ / "recipe.yaml"), TRAINER_RECIPES, overrides)
        if loaded.init != getattr(repeated, "init", None):  # other weights were asked for
            repeat_of = repeat_of.model_copy(update={"init_sha256": None})
        if stage is not None:
            check_stage(stage, str(from_), list(loaded.streams))
    else:
        if stage not in STAGE_RECIPES:
            known = ", ".join(STAGE_RECIPES)
            if stage is None:
                raise UserError(f"no stage: give one of {known}, or --from RUN to repeat a run")
            raise UserError(f"stage {stage!r}: {nearest(stage, list(STAGE_RECIPES))}expected one of {known}")
        name = recipe or STAGE_RECIPES[stage]
        try:
            loaded = load_recipe_of(PretrainRecipe, name, TRAINER_RECIPES, overrides)
        except UserError:
            check_token_options(name, TRAINER_RECIPES, {"video": video_tokens, "image": image_tokens})
            raise
        check_stage(stage, name, list(loaded.streams))
        if targets is not None:
            loaded = with_targets(loaded, targets)
        if assume is None:
            loaded, followed = follow_tokens(loaded, overrides)
            for line in followed:
                note(line)
    target = out or Path("runs") / (stage or f"{from_.name}-again" if from_ else "pretrain")
    memory = memory_of(memory_gb, set_)
    if dry_run:
        processes = max(nproc, int(os.environ.get("WORLD_SIZE", "1")))
        if assume is not None:
            words, numbers = plan_pretraining(loaded, known_sets(assume), Machine(processes, tflops, memory))
            show(words)
            numbers |= dataset_facts(known_sets(assume))
        else:
            numbers = plan(loaded, processes=processes, tflops=tflops, memory=memory)
        emit(with_price(numbers, price_per_gpu_hour), json_)
        return
    if grown and not resume:
        raise UserError("--grown: only a run that is resumed can go on with a larger data set; give --resume too")
    check_only_planned(assume, price_per_gpu_hour)
    if resume and from_ is not None:
        check_repeats(target, from_)
    options = {
        "resume": resume,
        "grown": grown,
        "repeat_of": repeat_of,
        "command": command_typed(),
        "tflops": tflops,
        "memory": memory,
    }
    emit(launch(run, nproc, loaded, target, **options), json_)
