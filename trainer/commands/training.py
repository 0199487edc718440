"""The commands that train and look at runs: parse, load a recipe, call one function. Heavy imports are inside them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import (
    AsJson,
    DecodeTimeout,
    Nproc,
    NumWorkers,
    Overrides,
    Precision,
    RecipeName,
    Resume,
    command_typed,
    overrides_of,
    yaml_string,
)
from bevt_core.console.terminal import emit, note, show
from schemas.errors import UserError
from trainer.commands.plan import Assume, Price, check_only_planned

if TYPE_CHECKING:
    from schemas.recipes import FinetuneRecipe
    from trainer.setup.memory import Memory

TRAINER_RECIPES = Path(__file__).resolve().parents[1] / "recipes"
STAGE_RECIPES = {
    "image": "image_swin_base_in1k",
    "video": "video_swin_base_k400",
    "joint": "joint_swin_base_k400_in1k",
}
TOKENIZER_RECIPES = {"dvae": "tokenizer_dvae", "peco": "tokenizer_peco"}

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan for --nproc processes (batch, steps, cost), and stop.")
]
Tflops = Annotated[float, typer.Option(help="Of the plan's hours: effective TFLOP/s per process. Arithmetic only.")]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Memory of a card in GB that micro-batches are chosen for (default: the GPU's; without one, as the recipe "
        "says). --set loop.micro_batches wins.",
    ),
]
ClipsRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="A fine-tuning recipe whose clips a pretrained encoder gets. Default: as pretrained."
    ),
]
ClassifierPath = Annotated[Path, typer.Argument(help="A fine-tuning run or its weights.")]


EXECUTION_KEYS = {"loop", "loop.micro_batches", "loop.activation_checkpointing"}


def memory_of(memory_gb: float | None, set_: list[str] | None) -> "Memory":
    """What micro-batches have to fit: what was given, or the card; nothing where --set says how they are."""
    pinned = [override for override in set_ or [] if override.partition("=")[0] in EXECUTION_KEYS]
    if not pinned:
        return "card" if memory_gb is None else memory_gb
    if memory_gb is not None:
        note(f"--memory-gb {memory_gb:g} is not used, because of --set {pinned[0]}")
    return "recipe"


def train(
    stage: Annotated[str | None, typer.Argument(help="image (BEVT-I), video (BEVT-V) or joint.")] = None,
    video_tokens: Annotated[str | None, typer.Option(help="Token set of the video stream, also s3://.")] = None,
    image_tokens: Annotated[str | None, typer.Option(help="Token set of the image stream, also s3://.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this run or weights, e.g. BEVT-I for joint.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/<stage>.")] = None,
    recipe: RecipeName = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Repeat this run: its recipe and data, into --out.")
    ] = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    dry_run: DryRun = False,
    tflops: Tflops = 100.0,
    memory_gb: MemoryGb = None,
    assume: Assume = None,
    price_per_gpu_hour: Price = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Pretrain from token sets: masked image modelling, masked video modelling, or both jointly.

    Vocabulary, patch size and clip length follow from the token sets, if no --set says otherwise.

    \b
    Examples:
      bevt train joint --video-tokens datasets/k400/tokens/dalle-v8 --image-tokens datasets/imagenet/tokens/dalle-v20
      bevt train image --recipe nano_image --image-tokens demo/images/tokens/dvae-v8 --out runs/image
      bevt train joint --dry-run --nproc 8 --tflops 150 --memory-gb 80
      bevt train joint --dry-run --assume k400,in1k --nproc 32 --price-per-gpu-hour 2.5
      bevt train --from runs/joint --out runs/joint-again
    """
    from bevt_core.dataset.known_sets import known_sets
    from schemas.recipes import PretrainRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.commands.estimate import Machine, dataset_facts, plan_pretraining, with_price
    from trainer.distributed.launch import launch
    from trainer.pretrain.follow_tokens import follow_tokens
    from trainer.pretrain.stage import dry_run as plan
    from trainer.pretrain.stage import pretrain as run
    from trainer.pretrain.streams import check_stage, check_token_options
    from trainer.runs.directory import read_run

    given = {"streams.video.tokens": video_tokens, "streams.image.tokens": image_tokens, "init": init}
    overrides = [*(set_ or []), *overrides_of(given)]
    repeats = None
    if from_ is not None:
        _, repeats = read_run(from_)
        loaded = load_recipe_of(PretrainRecipe, str(from_ / "recipe.yaml"), TRAINER_RECIPES, overrides)
    else:
        if stage not in STAGE_RECIPES:
            raise UserError(f"stage {stage!r}: expected one of {', '.join(STAGE_RECIPES)}, or --from RUN")
        name = recipe or STAGE_RECIPES[stage]
        try:
            loaded = load_recipe_of(PretrainRecipe, name, TRAINER_RECIPES, overrides)
        except UserError:
            check_token_options(name, TRAINER_RECIPES, {"video": video_tokens, "image": image_tokens})
            raise
        check_stage(stage, name, list(loaded.streams))
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
    check_only_planned(assume, price_per_gpu_hour)
    options = {"resume": resume, "repeats": repeats, "command": command_typed(), "tflops": tflops, "memory": memory}
    emit(launch(run, nproc, loaded, target, **options), json_)


def train_tokenizer(
    name: Annotated[str, typer.Argument(help="The architecture: dvae or peco.")] = "dvae",
    preset: Annotated[str | None, typer.Option(help="Its size: nano, small, ...")] = None,
    frames: Annotated[list[str] | None, typer.Option(help="A frame store, also s3:// (repeatable).")] = None,
    out: Annotated[Path, typer.Option(help="The run's directory; the tokenizer ends in its folder tokenizer/.")] = Path(
        "runs/tokenizer"
    ),
    recipe: RecipeName = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Train a tokenizer on stored frames: a small discrete VAE (dvae), or a VQ-VAE with a perceptual loss (peco).

    \b
    Examples:
      bevt tokenizer train dvae --preset nano --frames datasets/images/frames --out runs/dvae
      bevt tokenizer train peco --frames datasets/imagenet/frames --out runs/peco --nproc 8
    """
    from schemas.recipes import TokenizerRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.distributed.launch import launch
    from trainer.tokenizer.stage import train_tokenizer as run

    overrides = [*(set_ or [])]
    if preset is not None:
        overrides.append(f"architecture.preset={yaml_string(preset)}")
    if frames:
        overrides.append(f"frames=[{', '.join(map(yaml_string, frames))}]")
    if name not in TOKENIZER_RECIPES:
        raise UserError(f"tokenizer {name!r}: expected one of {', '.join(TOKENIZER_RECIPES)}")
    loaded = load_recipe_of(TokenizerRecipe, recipe or TOKENIZER_RECIPES[name], TRAINER_RECIPES, overrides)
    if loaded.architecture.kind != name:
        raise UserError(f"recipe {recipe!r} trains a {loaded.architecture.kind}, the command says {name}")
    emit(launch(run, nproc, loaded, out, resume=resume, command=command_typed()), json_)


def list_runs(
    directory: Annotated[Path, typer.Argument(help="Runs are looked for below it.")] = Path("runs"),
    json_: AsJson = False,
) -> None:
    """List the runs below a folder, the newest first: steps, loss, time left, and alive, finished, stopped or dead.

    \b
    Example:
      bevt runs list runs
    """
    from trainer.runs.browse import list_runs as run
    from trainer.runs.table import list_table

    rows = run(directory)
    if json_:
        emit({"runs": rows}, json_)
        return
    show("\n".join(list_table(rows)))


def show_run(run: Annotated[Path, typer.Argument(help="A run's directory.")], json_: AsJson = False) -> None:
    """Show one run: its command, data, processes, checkpoints, and the values of its last step.

    \b
    Example:
      bevt runs show runs/joint
    """
    from trainer.runs.browse import show_run as show

    emit(show(run), json_)


def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs.")],
    out: Annotated[Path, typer.Option(help="The PNG of the curves.")] = Path("curves.png"),
    key: Annotated[
        list[str] | None,
        typer.Option(help="A value of the log (repeatable). Default: loss; in text accuracies too."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Compare runs in one table: settings, data and machines that differ, results, and curves; these also as a picture.

    \b
    Example:
      bevt runs compare runs/joint runs/joint-lr3 --key mvm_loss --out curves.png
    """
    from trainer.runs.browse import compare_runs as compare
    from trainer.runs.table import compare_table

    compared = compare(runs, key, out)
    if json_:
        emit(compared, json_)
        return
    show("\n".join(compare_table(compared)))


def predict(
    checkpoint: ClassifierPath,
    videos: Annotated[list[str], typer.Argument(help="Files, directories or globs.")],
    top: Annotated[int, typer.Option(help="Classes per video.")] = 5,
    precision: Precision = "auto",
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    json_: AsJson = False,
) -> None:
    """Name the classes of videos, with scores; a file that cannot be read does not stop the rest.

    The exit status is 1 where nothing could be read.

    \b
    Example:
      bevt predict runs/finetune-k400 clip.mp4 more-clips/
    """
    from schemas.recipes import DECODE_TIMEOUT_S
    from trainer.distributed.cpus import loader_workers
    from trainer.testing.predict import predict as run

    rows = run(
        checkpoint,
        videos,
        top=top,
        precision=precision,
        decode_timeout_s=decode_timeout_s or DECODE_TIMEOUT_S,
        num_workers=loader_workers(num_workers),
    )
    emit({"videos": rows} if json_ else {row["video"]: _named(row) for row in rows}, json_)
    if all("error" in row for row in rows):
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes; a finished step is not repeated.")] = Path("demo"),
    json_: AsJson = False,
) -> None:
    """The whole method in minutes on a laptop: make labelled videos, tokenize, pretrain, fine-tune, evaluate.

    Every step is one of the commands above, printed so that it can be copied. Ends with a table and report.html.

    \b
    Example:
      bevt demo --out demo
    """
    from trainer.demo.run import demo as run

    emit(run(out), json_)


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Fine-tuning runs and their evaluations, or folders that hold both.")
    ],
    out: Annotated[Path, typer.Option(help="Gets report.html, report.md and report.csv.")] = Path("report"),
    json_: AsJson = False,
) -> None:
    """Write the paper's Tables 1 and 3 to 6 with these runs in them, and what differs in their settings.

    \b
    Example:
      bevt report runs/finetune-k400 runs/evaluate-k400 --out report
    """
    from trainer.show.paper_report import write_report

    emit(write_report(runs, out), json_)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's directory, or weights.safetensors.")],
    out: Annotated[Path, typer.Option(help="hub: the folder; program: the .pt2 file; onnx: the .onnx file.")],
    format_: Annotated[
        str, typer.Option("--format", help="hub (Hugging Face layout), program (torch.export) or onnx.")
    ] = "hub",
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="hub: what `bevt evaluate --out` wrote, for the model card (repeatable).")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="program, onnx: frames of a clip. Default: as fine-tuned, else 32.")
    ] = None,
    size_px: Annotated[
        int | None, typer.Option(min=1, help="program, onnx: side of a frame. Default: as fine-tuned, else 224.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Write a model for use elsewhere: the same bits with a model card, or a classifier that needs no bevt to run.

    A program or an ONNX file takes clips (B, 3, frames, size, size), RGB normalised with ImageNet's mean and deviation,
    with any B, and gives logits. An ONNX file is run by onnxruntime and compared with torch before it is written.

    \b
    Examples:
      bevt export runs/finetune-k400 --evaluation runs/evaluate-k400 --out hub/bevt-k400
      bevt export runs/finetune-k400 --format onnx --out bevt-k400.onnx
    """
    from bevt_core.models.classifier import Classifier
    from bevt_core.storage.files import read_record
    from bevt_core.weights.checkpoints import load_weights
    from bevt_core.weights.export import save_onnx, save_program
    from schemas.evaluation import ClassifierCard
    from trainer.runs.directory import existing_weights
    from trainer.show.model_card import export_hub
    from trainer.testing.classifier_card import CARD

    if format_ == "hub":
        export_hub(checkpoint, out, evaluation or [])
        emit({"out": str(out), "format": format_}, json_)
        return
    weights = existing_weights(checkpoint)
    model = load_weights(weights)
    if format_ not in ("program", "onnx") or not isinstance(model, Classifier):
        raise UserError(
            f"--format {format_!r} of a {type(model).__name__}: expected hub, or program or onnx of a classifier"
        )
    card = read_record(weights.parent / CARD, ClassifierCard)
    clip = {
        "frames": frames or (card.sampling.frames if card else 32),
        "size_px": size_px or (card.crop_px if card else 224),
    }
    checked = {}
    if format_ == "program":
        save_program(out, model, **clip)
    else:
        checked["largest_difference"] = save_onnx(out, model, **clip)
    emit({"out": str(out), "format": format_, **clip, **checked}, json_)


def bench_loader(
    root: Annotated[Path, typer.Option(help="Where the videos that the set or store was made from are.")],
    video_tokens: Annotated[Path | None, typer.Option(help="A token set of videos, 224 px.")] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Compare fine-tuning's clips from --frames and from the files.")
    ] = False,
    frames: Annotated[str | None, typer.Option(help="--finetune: a frame store (bevt tokenize --frames-only).")] = None,
    recipe: Annotated[str, typer.Option(help="--finetune: whose clips.")] = "finetune_k400_swin_base",
    clips: Annotated[int, typer.Option(help="Of a round, spread over the set.")] = 16,
    repeats: Annotated[int, typer.Option(help="Epochs of each, alternating; one more warms up.")] = 8,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Clips per CPU-second from shards, against decord on the video files and against a bare JPEG loop.

    With --finetune: augmented clips of a recipe from a frame store against the files, decoding child included. Keys:
    file_clips_per_cpu_s, store_clips_per_cpu_s, ratio_store_vs_files (of the two), mean_difference (of the pixels,
    0 to 255; null where the store has not every frame, as then the clips are not the same), clips, repeats.

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


def clips_recipe(name: str | None, set_: list[str] | None) -> "FinetuneRecipe | None":
    """The fine-tuning recipe that says which clips a pretrained encoder looks at, if one is named."""
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of

    if name is not None:
        return load_recipe_of(FinetuneRecipe, name, TRAINER_RECIPES, set_ or [])
    if set_:
        raise UserError(f"--set {set_[0]}: there is no recipe to override; name one with --recipe")
    return None


def _named(row: Mapping[str, Any]) -> str:
    """The classes of a video, best first, or what is wrong with it."""
    if "error" in row:
        return f"cannot be read: {row['error']}"
    return ", ".join(f"{found['name']} {found['score']:.1%}" for found in row["classes"])
