"""The command `bevt`: parse, load a recipe, call one function. Heavy imports are inside the commands."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import UserError

if TYPE_CHECKING:
    from trainer.clips import ClipSource


# Loader processes and torch's threads share the CPUs: threads that spin while they wait slow everything down, six times
# where two programs want the same two cores (docs/log.md). Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class App(typer.Typer):
    """Typer, with the errors that are meant for the user printed alone: one message, exit code 2."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            if type(error).__name__ != "StorageError":  # bevt_core.files.StorageError, not imported for --help's sake
                raise
            _fail(str(error))


app = App(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="BERT pretraining of video transformers: tokenize once on Ray, train from shards with DDP.",
)
tokenizer_app = App(no_args_is_help=True, rich_markup_mode=None, help="Train and inspect tokenizers.")
app.add_typer(tokenizer_app, name="tokenizer")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key: --set optim.lr=3e-4")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Nproc = Annotated[int, typer.Option(help="Processes on this machine (DDP); under torchrun leave it at 1.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its newest whole checkpoint.")]
RecipeName = Annotated[str | None, typer.Option(help="A shipped recipe's name or the path of a .yaml file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done (batch, steps, sizes) and stop.")]

HERE = Path(__file__).resolve().parent
PIPELINE_RECIPES = HERE / "pipeline" / "recipes"
TRAINER_RECIPES = HERE / "trainer" / "recipes"
STAGE_RECIPES = {
    "image": "image_swin_base_in1k",
    "video": "video_swin_base_k400",
    "joint": "joint_swin_base_k400_in1k",
}
FINETUNE_RECIPES = {
    "k400": "finetune_k400_swin_base",
    "ssv2": "finetune_ssv2_swin_base",
    "diving48": "finetune_diving48_swin_base",
    "folder": "nano_finetune",
}


@app.command()
def tokenize(
    dataset: Annotated[str, typer.Option(help="k400, imagenet, or folder.")],
    root: Annotated[Path | None, typer.Option(help="Where the raw files are. Default: the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where frames/ and tokens/ go. Default: the recipe's.")] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val, ...: recorded, and a sub-folder if there is one.")
    ] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help="`path label` lines instead of the folders.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer's name or directory.")] = None,
    recipe: RecipeName = None,
    frames_only: Annotated[
        bool, typer.Option("--frames-only", help="Only the frame store, e.g. for fine-tuning.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any source was rejected.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete what another recipe left in --out.")] = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Decode a dataset and tokenize it once, on Ray, into a frame store and a token set.

    The same command again continues a killed job and does nothing for a finished one.

    \b
    Example:
      bevt tokenize --dataset k400 --root /data/k400/train --out datasets/k400 --tokenizer tokenizers/dalle
    """
    from pipeline.job import tokenize as run
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import TokenizeRecipe

    given = {"root": root, "out": out, "split": split, "tokenizer": tokenizer, "dataset": dataset}
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    loaded = load_recipe_of(TokenizeRecipe, recipe or dataset, PIPELINE_RECIPES, overrides)
    summary = run(loaded, list_file=list_file, frames_only=frames_only, overwrite=overwrite)
    _emit(summary, json_)
    if summary["rejected"]:
        place = Path(summary["frames_dir"]) / "part-*" / "rejected.parquet"
        _warn(
            f"{summary['rejected']} of {summary['sources']} sources were rejected "
            f"({summary['rejected_by_reason']}); see {place}"
        )
        if strict:
            raise typer.Exit(1)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="A dataset: the folder that holds frames/ and tokens/.")],
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file and tokenize every stored view again.")] = False,
    sample: Annotated[int, typer.Option(help="Without --deep: how many (sample, view) pairs to tokenize again.")] = 32,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is now, if it has moved.")] = None,
    json_: AsJson = False,
) -> None:
    """Check a dataset: digests, counts, nothing lost, and that the stored tokens are those of the stored frames.

    \b
    Example:
      bevt verify datasets/k400 --deep --json
    """
    from pipeline.verify import verify as run

    report = run(directory, deep=deep, sample=sample, tokenizer=tokenizer)
    _emit(report, json_)
    if not report["ok"]:
        raise typer.Exit(1)


@tokenizer_app.command("train")
def train_tokenizer(
    name: Annotated[str, typer.Argument(help="The architecture: dvae.")] = "dvae",
    preset: Annotated[str | None, typer.Option(help="Its size: nano, small, ...")] = None,
    frames: Annotated[list[Path] | None, typer.Option(help="A frame store (repeatable).")] = None,
    out: Annotated[Path, typer.Option(help="The run's directory; the tokenizer ends in its folder tokenizer/.")] = Path(
        "runs/tokenizer"
    ),
    recipe: RecipeName = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Train a small discrete VAE on stored frames, for use where no published tokenizer can be had.

    \b
    Example:
      bevt tokenizer train dvae --preset nano --frames datasets/images/frames --out runs/dvae
    """
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import TokenizerRecipe
    from trainer.launch import launch
    from trainer.train_tokenizer import train_tokenizer as run

    overrides = [*(set_ or [])]
    if preset is not None:
        overrides.append(f"preset={preset}")
    if frames:
        overrides.append(f"frames={json.dumps([str(path) for path in frames])}")
    loaded = load_recipe_of(TokenizerRecipe, recipe or f"tokenizer_{name}", TRAINER_RECIPES, overrides)
    _emit(launch(run, nproc, loaded, out, resume=resume, command=_command()), json_)


@app.command()
def train(
    stage: Annotated[str | None, typer.Argument(help="image (BEVT-I), video (BEVT-V) or joint.")] = None,
    video_tokens: Annotated[Path | None, typer.Option(help="Token set of the video stream.")] = None,
    image_tokens: Annotated[Path | None, typer.Option(help="Token set of the image stream.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from this run or weights, e.g. BEVT-I for joint.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/<stage>.")] = None,
    recipe: RecipeName = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Repeat this run: its recipe and data, into --out.")
    ] = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    dry_run: DryRun = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Pretrain from token sets: masked image modelling, masked video modelling, or both jointly.

    \b
    Examples:
      bevt train joint --video-tokens datasets/k400/tokens/dalle-v8 --image-tokens datasets/imagenet/tokens/dalle-v20
      bevt train image --recipe nano_image --image-tokens demo/images/tokens/dvae-v8 --out runs/image
      bevt train --from runs/joint --out runs/joint-again
    """
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import PretrainRecipe
    from trainer.launch import launch
    from trainer.pretrain import pretrain as run
    from trainer.run import read_run

    overrides = [*(set_ or [])]
    for key, path in (("streams.video.tokens", video_tokens), ("streams.image.tokens", image_tokens), ("init", init)):
        if path is not None:
            overrides.append(f"{key}={json.dumps(str(path))}")
    repeats = None
    if from_ is not None:
        loaded = load_recipe_of(PretrainRecipe, str(from_ / "recipe.yaml"), TRAINER_RECIPES, overrides)
        _, repeats = read_run(from_)
    else:
        if stage not in STAGE_RECIPES:
            raise UserError(f"stage {stage!r}: expected one of {', '.join(STAGE_RECIPES)}, or --from RUN")
        loaded = load_recipe_of(PretrainRecipe, recipe or STAGE_RECIPES[stage], TRAINER_RECIPES, overrides)
    target = out or Path("runs") / (stage or f"{from_.name}-again" if from_ else "pretrain")
    options = {"resume": resume, "dry_run": dry_run, "repeats": repeats, "command": _command()}
    _emit(launch(run, nproc, loaded, target, **options), json_)


@app.command()
def finetune(
    dataset: Annotated[str, typer.Argument(help="k400, ssv2, diving48 or folder: how --root is read, and the recipe.")],
    root: Annotated[Path | None, typer.Option(help="The training files. Default: the recipe's.")] = None,
    frames: Annotated[
        Path | None, typer.Option(help="A frame store instead of files (bevt tokenize --frames-only).")
    ] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help="`path label` lines instead of the folders.")] = None,
    val_root: Annotated[
        Path | None, typer.Option(help="The validation files. Default: a share of the training ones.")
    ] = None,
    val_frames: Annotated[Path | None, typer.Option(help="A frame store of the validation files.")] = None,
    init: Annotated[Path | None, typer.Option(help="A pretraining run or weights; without it, from scratch.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/finetune-<dataset>.")] = None,
    recipe: RecipeName = None,
    nproc: Nproc = 1,
    resume: Resume = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Fine-tune a pretrained encoder to classify videos.

    \b
    Examples:
      bevt finetune diving48 --root /data/diving48 --init runs/joint --nproc 8
      bevt finetune folder --root videos --init runs/joint --out runs/mine
    """
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import FinetuneRecipe
    from trainer.clips import split_items
    from trainer.finetune import finetune as run
    from trainer.launch import launch

    given = {"root": root, "init": init, "dataset": dataset}
    overrides = [
        *(set_ or []),
        *(f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None),
    ]
    loaded = load_recipe_of(
        FinetuneRecipe, recipe or FINETUNE_RECIPES.get(dataset, dataset), TRAINER_RECIPES, overrides
    )
    train_clips = _clips(dataset, Path(loaded.root), frames, list_file, "train")
    if val_root is not None or val_frames is not None:
        val_clips = _clips(dataset, val_root, val_frames, None, "val")
    else:
        train_items, val_items = split_items(train_clips.items, loaded.val_share, loaded.loop.seed)
        train_clips, val_clips = train_clips.subset(train_items), train_clips.subset(val_items)
    target = out or Path("runs") / f"finetune-{dataset}"
    _emit(launch(run, nproc, loaded, train_clips, val_clips, target, resume=resume, command=_command()), json_)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A fine-tuning run or its weights.")],
    dataset: Annotated[str, typer.Option(help="How --root is read: k400, ssv2, diving48 or folder.")] = "folder",
    root: Annotated[Path | None, typer.Option(help="The files to test on.")] = None,
    frames: Annotated[Path | None, typer.Option(help="A frame store instead of files.")] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help="`path label` lines instead of the folders.")] = None,
    split: Annotated[str, typer.Option(help="A sub-folder of --root, if there is one.")] = "val",
    clips: Annotated[int | None, typer.Option(help="Temporal clips per video. Default: the recipe's.")] = None,
    crops: Annotated[int | None, typer.Option(help="Spatial crops per clip, 1 or 3. Default: the recipe's.")] = None,
    temporal: Annotated[str, typer.Option(help="normal, single-frame (one frame repeated) or shuffle.")] = "normal",
    seed: Annotated[int, typer.Option(help="Of the shuffle.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Gets evaluation.json and scores.parquet.")] = None,
    nproc: Nproc = 1,
    json_: AsJson = False,
) -> None:
    """Test a classifier: top-1, top-5 and mean-class accuracy, scores averaged over temporal clips and spatial crops.

    \b
    Example:
      bevt evaluate runs/finetune-k400 --dataset k400 --root /data/k400/val --clips 4 --crops 3 --json
    """
    from trainer.evaluate import evaluate as run
    from trainer.launch import launch

    data = _clips(dataset, root, frames, list_file, split)
    options = {"clips": clips, "crops": crops, "temporal": temporal, "seed": seed, "out": out}
    _emit(launch(run, nproc, checkpoint, data, **options), json_)


@app.command("demo-videos")
def demo_videos(
    out: Annotated[Path, typer.Argument(help="Gets train/ and test/ with class folders, and images/.")],
    clips: Annotated[int, typer.Option(help="Training clips per class; there are 8 classes.")] = 800,
    seed: Annotated[int, typer.Option(help="Another seed, other clips.")] = 0,
    json_: AsJson = False,
) -> None:
    """Make a small labelled set of H.264 files: a camera moves over photographs, the class is its motion.

    \b
    Example:
      bevt demo-videos demo/raw --clips 100
    """
    from pipeline.camera_motion import make_camera_motion_set

    _emit(make_camera_motion_set(out, train_clips_per_class=clips, seed=seed).model_dump(), json_)


@app.command()
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
    from trainer.demo import demo as run

    _emit(run(out), json_)


def _clips(dataset: str, root: Path | None, frames: Path | None, list_file: Path | None, split: str) -> "ClipSource":
    """Where labelled clips come from: a frame store, or files that a source lists."""
    from pipeline.sources import list_sources
    from trainer.clips import FileClips, StoreClips

    if frames is not None:
        return StoreClips(frames)
    if root is None:
        raise UserError("no data: give --root (files) or --frames (a frame store)")
    listing = list_sources(dataset, root, split, list_file)
    return FileClips(root, tuple(listing.items), listing.classes)


def _emit(summary: dict[str, Any], as_json: bool) -> None:
    """The result: one JSON object as the last line, or one `key: value` line each. Under torchrun rank 0 prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    for key, value in summary.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}", flush=True)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _command() -> str:
    """What the user typed, for the run record."""
    return shlex.join(["bevt", *sys.argv[1:]])


if __name__ == "__main__":
    app()
