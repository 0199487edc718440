"""`bevt plan`: the cost of the paper's experiment on a data set, estimated before any download."""

from typing import Annotated, Any

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit, show
from bevt_core.known_sets import FRAME_BYTES, TOKEN_MAP_BYTES, TOKENIZER_GFLOP, KnownSet, known_set, known_sets
from schemas.errors import UserError

Assume = Annotated[
    str | None,
    typer.Option(
        metavar="SETS",
        help="With --dry-run: public sets to plan for, which need not exist here: k400,in1k,ssv2,diving48.",
    ),
]
Price = Annotated[
    float | None, typer.Option(min=0.0, help="With --dry-run: price of one GPU hour, for the cost of the run.")
]

PRETRAINING = {  # by data set of the plan: pretraining recipes and the sets that they read
    "in1k": {"image_swin_base_in1k": "in1k"},
    "k400": {"image_swin_base_in1k": "in1k", "joint_swin_base_k400_in1k": "k400,in1k"},
}


def check_only_planned(assume: str | None, price_per_gpu_hour: float | None) -> None:
    """Raise UserError if options that need --dry-run were given for a run."""
    for option, value in (("--assume", assume), ("--price-per-gpu-hour", price_per_gpu_hour)):
        if value is not None:
            raise UserError(f"{option} {value}: only for a plan; add --dry-run, or leave it out")


def plan(
    dataset: Annotated[str, typer.Argument(help="Data set: in1k (BEVT-I alone), k400, ssv2 or diving48.")],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 8,
    memory_gb: Annotated[float, typer.Option(min=1.0, help="Memory per GPU in GB.")] = 80.0,
    tflops: Annotated[float, typer.Option(min=0.1, help="Effective TFLOP/s per GPU in training.")] = 100.0,
    tokenizer_tflops: Annotated[
        float, typer.Option(min=0.1, help="Effective TFLOP/s per GPU in the tokenizer, in float32.")
    ] = 30.0,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Price of one GPU hour (default: no prices).")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Estimate the hours, memory, disk and price of the paper's experiment.

    No data are read: the sizes of the sets are known, and operations are counted for the shipped recipes. For your own
    recipe, use `bevt train --dry-run --assume`.

    \b
    Examples:
      bevt plan k400
      bevt plan ssv2 --gpus 32 --memory-gb 40 --tflops 150 --price-per-gpu-hour 2.5 --json
    """
    known = known_set(dataset)
    steps = [_tokenize_step(each, gpus, tokenizer_tflops) for each in _tokenized(known)]
    steps += _training_steps(known, gpus, tflops, memory_gb)
    if price_per_gpu_hour is not None:
        steps = [step | {"price": step["gpu_hours"] * price_per_gpu_hour} for step in steps]
    summed = [key for key in ("hours", "gpu_hours", "disk_gb", "price") if key in steps[0]]
    summary: dict[str, Any] = {
        "gpus": gpus,
        "steps": steps,
        "total": {key: sum(step[key] for step in steps) for key in summed},
        "assumptions": _assumptions(known, tflops, tokenizer_tflops, price_per_gpu_hour),
    }
    if json_:
        emit(summary, json_)
        return
    show("\n".join(_table(summary)))


def _tokenized(known: KnownSet) -> list[KnownSet]:
    names = dict.fromkeys(",".join(_pretraining(known).values()).split(","))
    return known_sets(",".join(names))


def _pretraining(known: KnownSet) -> dict[str, str]:
    return PRETRAINING.get(known.name, PRETRAINING["k400"])  # others are fine-tuned from Kinetics (paper, section 4.1)


def _tokenize_step(known: KnownSet, gpus: int, tflops: float) -> dict[str, Any]:
    gpu_hours = known.tokenizer_flops / (tflops * 1e12) / 3600
    disk_gb = known.frames_gb + known.tokens_gb
    return {
        "step": f"tokenize {known.name}",
        "hours": gpu_hours / gpus,
        "gpu_hours": gpu_hours,
        "memory_gb": None,
        "disk_gb": disk_gb,
    }


def _training_steps(known: KnownSet, gpus: int, tflops: float, memory_gb: float) -> list[dict[str, Any]]:
    """The cost of each stage. Raises UserError for GPUs too small for any of them, with the size that all need."""
    from schemas.recipes import FinetuneRecipe, PretrainRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.finetune.plan import plan_finetuning
    from trainer.pretrain.plan import plan_pretraining
    from trainer.recipes import TRAINER_RECIPES
    from trainer.setup.estimate import Machine, with_price
    from trainer.setup.memory import TooLittleMemory

    machine = Machine(gpus, tflops, memory_gb)
    planned: dict[str, dict[str, Any]] = {}
    too_large: dict[str, TooLittleMemory] = {}
    for name, sets in _pretraining(known).items():
        recipe = load_recipe_of(PretrainRecipe, name, TRAINER_RECIPES)
        try:
            planned[name] = plan_pretraining(recipe, known_sets(sets), machine)[1]
        except TooLittleMemory as error:
            too_large[name] = error
    if known.kind == "video":
        name = f"finetune_{known.name}_swin_base"
        try:
            planned[name] = plan_finetuning(load_recipe_of(FinetuneRecipe, name, TRAINER_RECIPES), known, machine)
        except TooLittleMemory as error:
            too_large[name] = error
    if too_large:
        name, largest = max(too_large.items(), key=lambda stage: stage[1].least_gb)
        raise UserError(f"train {name}: {largest}")
    steps = []
    for name, numbers in planned.items():
        priced = with_price(numbers, None)
        step = {key: priced[key] for key in ("hours", "gpu_hours", "memory_gb", "micro_batches", "flops_total")}
        steps.append({"step": f"train {name}", **step, "disk_gb": numbers["checkpoints_gb"]})
    return steps


def _assumptions(known: KnownSet, tflops: float, tokenizer_tflops: float, price: float | None) -> dict[str, str]:
    lines = {each.name: each.description for each in (*_tokenized(known), known)}
    lines |= {
        "frame": f"{FRAME_BYTES / 1000:g} kB on disk (measured, 256 px, JPEG quality 90)",
        "token map": f"{TOKEN_MAP_BYTES} bytes on disk (measured, at most)",
        "tokenizer": f"DALL-E, {TOKENIZER_GFLOP:g} GFLOP per frame (counted), {tokenizer_tflops:g} TFLOP/s (assumed)",
        "training": f"operations counted, {tflops:g} TFLOP/s per GPU (assumed), never waiting for data",
        "memory": "weights, gradients, optimizer and activations (estimated)",
        "not included": "raw files and their download, decoding on CPUs (`bevt scan` estimates it), testing",
    }
    if price is not None:
        lines["price"] = f"{price:g} per GPU hour"
    return lines


def _table(summary: dict[str, Any]) -> list[str]:
    columns = [f"h on {summary['gpus']} GPUs", "GPU hours", "GB per GPU", "GB on disk"]
    columns += ["price"] if "price" in summary["total"] else []
    lines = [f"{'step':<36}" + "".join(f"{column:>14}" for column in columns)]
    for row in [*summary["steps"], {"step": "total", **summary["total"]}]:
        values = [f"{row['hours']:.1f}"] + [_rounded(row.get(key)) for key in ("gpu_hours", "memory_gb", "disk_gb")]
        values += [_rounded(row["price"])] if "price" in row else []
        lines.append(f"{row['step']:<36}" + "".join(f"{value:>14}" for value in values))
    lines.append("estimated from:")
    return [*lines, *(f"  {name}: {text}" for name, text in summary["assumptions"].items())]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
