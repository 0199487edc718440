"""The command `bevt`: parse, load a recipe, call one function. Heavy imports are inside the commands."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from schemas.errors import UserError

if TYPE_CHECKING:
    from schemas.recipes import TokenizeRecipe
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
model_app = App(no_args_is_help=True, rich_markup_mode=None, help="Models: sizes and cost.")
app.add_typer(model_app, name="model")
bench_app = App(no_args_is_help=True, rich_markup_mode=None, help="Measure, side by side with a reference in one run.")
app.add_typer(bench_app, name="bench")
runs_app = App(no_args_is_help=True, rich_markup_mode=None, help="Look at run directories, also while they train.")
app.add_typer(runs_app, name="runs")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key: --set optim.lr=3e-4")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Nproc = Annotated[int, typer.Option(help="Processes on this machine (DDP); under torchrun leave it at 1.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its newest whole checkpoint.")]
RecipeName = Annotated[str | None, typer.Option(help="A shipped recipe's name or the path of a .yaml file.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan for --nproc processes (batch, steps, cost), and stop.")
]
Tflops = Annotated[float, typer.Option(help="Of the plan's hours: effective TFLOP/s per process. Arithmetic only.")]

HERE = Path(__file__).resolve().parent
PIPELINE_RECIPES = HERE / "pipeline" / "recipes"
TRAINER_RECIPES = HERE / "trainer" / "recipes"
STAGE_RECIPES = {
    "image": "image_swin_base_in1k",
    "video": "video_swin_base_k400",
    "joint": "joint_swin_base_k400_in1k",
}
TOKENIZER_RECIPES = {"dvae": "tokenizer_dvae", "peco": "tokenizer_peco"}
FINETUNE_RECIPES = {
    "k400": "finetune_k400_swin_base",
    "ssv2": "finetune_ssv2_swin_base",
    "diving48": "finetune_diving48_swin_base",
    "folder": "nano_finetune",
}


Dataset = Annotated[str, typer.Option(help="k400, ssv2, diving48, imagenet, howto100m, folder or list.")]
Root = Annotated[Path | None, typer.Option(help="Where the raw files are. Default: the recipe's.")]
Out = Annotated[Path | None, typer.Option(help="Where frames/ and tokens/ go. Default: the recipe's.")]
Split = Annotated[str | None, typer.Option(help="train, val, ...: recorded, and a sub-folder if there is one.")]
ListFile = Annotated[Path | None, typer.Option("--list", help="`path label` lines, or what bevt scan --write wrote.")]
TokenizerName = Annotated[str | None, typer.Option(help="A tokenizer's name or directory. Default: the recipe's.")]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="Follow lines and links that leave --root.")]


@app.command()
def tokenize(
    dataset: Dataset,
    root: Root = None,
    out: Out = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    tokenizer: TokenizerName = None,
    recipe: RecipeName = None,
    frames_only: Annotated[
        bool, typer.Option("--frames-only", help="Only the frame store, e.g. for fine-tuning.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any source was rejected.")] = False,
    max_rejected: Annotated[str | None, typer.Option(metavar="SHARE", help="Stop when more is rejected: 5%.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete what another recipe left in --out.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster. Default: RAY_ADDRESS, else this machine.")
    ] = None,
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

    summary = run(
        _tokenize_recipe(dataset, root, out, split, tokenizer, recipe, set_),
        list_file=list_file,
        allow_outside=allow_outside,
        frames_only=frames_only,
        max_rejected=None if max_rejected is None else _share(max_rejected),
        overwrite=overwrite,
        ray_address=ray_address,
    )
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
def scan(
    dataset: Dataset,
    root: Root = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    write: Annotated[Path | None, typer.Option(help="Write the list of files, for `bevt tokenize --list`.")] = None,
    recipe: RecipeName = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Look at a root before a long job: found, missing, stubs, unreadable, codecs, sizes, and what the job will cost.

    \b
    Example:
      bevt scan --dataset k400 --root /data/k400/train --write k400-train.parquet
    """
    from pipeline.scan import scan as run

    loaded = _tokenize_recipe(dataset, root, None, split, None, recipe, set_)
    _emit(run(loaded, list_file=list_file, allow_outside=allow_outside, write=write), json_)


@app.command()
def repair(
    directory: Annotated[Path, typer.Argument(help="A dataset: the folder that holds frames/ and tokens/.")],
    root: Annotated[Path, typer.Option(help="Where the raw files are.")],
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is now, if it has moved.")] = None,
    json_: AsJson = False,
) -> None:
    """Make again just those parts that `bevt verify` finds damaged. What to make is read from the dataset.

    \b
    Example:
      bevt repair datasets/k400 --root /data/k400/train
    """
    from pipeline.repair import repair as run

    _emit(run(directory, root, tokenizer=tokenizer, list_file=list_file, allow_outside=allow_outside), json_)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="A dataset: the folder that holds frames/ and tokens/.")],
    sample: Annotated[str | None, typer.Option(help="A sample's id. Default: the first.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write frame | view | decoded tokens as a PNG.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is, to decode the tokens.")] = None,
    json_: AsJson = False,
) -> None:
    """Show one sample: where it came from, its frames and times, its views and token maps.

    \b
    Example:
      bevt inspect datasets/k400 --sample abseiling/clip.mp4 --picture out.png
    """
    from pipeline.inspect_row import inspect_dataset

    _emit(inspect_dataset(directory, sample_id=sample, picture=picture, tokenizer=tokenizer), json_)


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
    name: Annotated[str, typer.Argument(help="The architecture: dvae or peco.")] = "dvae",
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
    """Train a tokenizer on stored frames: a small discrete VAE (dvae), or a VQ-VAE with a perceptual loss (peco).

    \b
    Examples:
      bevt tokenizer train dvae --preset nano --frames datasets/images/frames --out runs/dvae
      bevt tokenizer train peco --frames datasets/imagenet/frames --out runs/peco --nproc 8
    """
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import TokenizerRecipe
    from trainer.launch import launch
    from trainer.train_tokenizer import train_tokenizer as run

    overrides = [*(set_ or [])]
    if preset is not None:
        overrides.append(f"architecture.preset={json.dumps(preset)}")
    if frames:
        overrides.append(f"frames={json.dumps([str(path) for path in frames])}")
    if name not in TOKENIZER_RECIPES:
        raise UserError(f"tokenizer {name!r}: expected one of {', '.join(TOKENIZER_RECIPES)}")
    loaded = load_recipe_of(TokenizerRecipe, recipe or TOKENIZER_RECIPES[name], TRAINER_RECIPES, overrides)
    if loaded.architecture.kind != name:
        raise UserError(f"recipe {recipe!r} trains a {loaded.architecture.kind}, the command says {name}")
    _emit(launch(run, nproc, loaded, out, resume=resume, command=_command()), json_)


@tokenizer_app.command("info")
def tokenizer_info(
    name: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    frames: Annotated[Path | None, typer.Option(help="A frame store: what the tokenizer keeps of its frames.")] = None,
    max_frames: Annotated[int, typer.Option(min=1, help="Looked at, evenly spread over the store.")] = 1024,
    json_: AsJson = False,
) -> None:
    """Show what a tokenizer is; with frames also PSNR, SSIM and how much of the codebook they use.

    \b
    Example:
      bevt tokenizer info dvae-small --frames datasets/imagenet/frames
    """
    from bevt_core.tokenizers.inspection import tokenizer_info as run

    _emit(run(name, frames, max_frames), json_)


@tokenizer_app.command("compare")
def compare_tokenizers(
    a: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    b: Annotated[str, typer.Argument(help="Another one's, or the same.")],
    frames: Annotated[Path, typer.Option(help="The frame store to compare them on.")],
    max_frames: Annotated[int, typer.Option(min=1, help="Looked at, evenly spread over the store.")] = 128,
    json_: AsJson = False,
) -> None:
    """Compare two tokenizers: equal ids, quality, speed, and what changes ids: dtype, JPEG quality, another filter.

    \b
    Example:
      bevt tokenizer compare dalle dvae-small --frames datasets/imagenet/frames --json
    """
    from bevt_core.tokenizers.inspection import compare_tokenizers as run

    _emit(run(a, b, frames, max_frames), json_)


@tokenizer_app.command("convert")
def convert_tokenizer(
    encoder: Annotated[Path, typer.Argument(help="The official encoder.pkl.")],
    decoder: Annotated[Path | None, typer.Argument(help="The official decoder.pkl, for pictures.")] = None,
    out: Annotated[Path, typer.Option(help="Gets encoder.safetensors, decoder.safetensors, tokenizer.json.")] = ...,  # type: ignore[assignment]
    expected_sha256: Annotated[str | None, typer.Option(help="Refuse an encoder.pkl of another digest.")] = None,
    json_: AsJson = False,
) -> None:
    """Turn the published DALL-E pickles into safetensors, once; nothing but the seven known classes is loaded.

    \b
    Example:
      bevt tokenizer convert encoder.pkl decoder.pkl --out tokenizers/dalle
    """
    from bevt_core.tokenizers.convert import convert_pickles

    _emit(convert_pickles(encoder, decoder, out, expected_sha256).model_dump(mode="json"), json_)


@tokenizer_app.command("fetch")
def fetch_tokenizer(
    name: Annotated[str, typer.Argument(help="dalle.")],
    out: Annotated[Path | None, typer.Option(help="Default: where it is found by its name.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Another address that serves encoder.pkl and decoder.pkl.")] = None,
    expected_sha256: Annotated[str | None, typer.Option(help="Refuse an encoder.pkl of another digest.")] = None,
    json_: AsJson = False,
) -> None:
    """Download the published DALL-E tokenizer and convert it; a broken download goes on where it stopped.

    \b
    Example:
      bevt tokenizer fetch dalle
    """
    from bevt_core.tokenizers import tokenizer_cache
    from bevt_core.tokenizers.fetch import DALLE_URL, fetch_dalle

    if name != "dalle":
        raise UserError(f"tokenizer {name!r}: only 'dalle' is published; train one with `bevt tokenizer train`")
    target = out or tokenizer_cache() / "dalle"
    stored = fetch_dalle(target, base_url=mirror or DALLE_URL, expected_sha256=expected_sha256)
    _emit({"tokenizer": str(target), **stored.model_dump(mode="json")}, json_)


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
    tflops: Tflops = 100.0,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Pretrain from token sets: masked image modelling, masked video modelling, or both jointly.

    \b
    Examples:
      bevt train joint --video-tokens datasets/k400/tokens/dalle-v8 --image-tokens datasets/imagenet/tokens/dalle-v20
      bevt train image --recipe nano_image --image-tokens demo/images/tokens/dvae-v8 --out runs/image
      bevt train joint --dry-run --nproc 32 --tflops 150
      bevt train --from runs/joint --out runs/joint-again
    """
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import PretrainRecipe
    from trainer.launch import launch
    from trainer.pretrain import dry_run as plan
    from trainer.pretrain import pretrain as run
    from trainer.run import read_run

    given = {"streams.video.tokens": video_tokens, "streams.image.tokens": image_tokens, "init": init}
    overrides = [*(set_ or []), *_overrides(given)]
    repeats = None
    if from_ is not None:
        loaded = load_recipe_of(PretrainRecipe, str(from_ / "recipe.yaml"), TRAINER_RECIPES, overrides)
        _, repeats = read_run(from_)
    else:
        if stage not in STAGE_RECIPES:
            raise UserError(f"stage {stage!r}: expected one of {', '.join(STAGE_RECIPES)}, or --from RUN")
        loaded = load_recipe_of(PretrainRecipe, recipe or STAGE_RECIPES[stage], TRAINER_RECIPES, overrides)
    target = out or Path("runs") / (stage or f"{from_.name}-again" if from_ else "pretrain")
    if dry_run:
        processes = max(nproc, int(os.environ.get("WORLD_SIZE", "1")))
        _emit(plan(loaded, processes=processes, tflops=tflops), json_)
        return
    options = {"resume": resume, "repeats": repeats, "command": _command(), "tflops": tflops}
    _emit(launch(run, nproc, loaded, target, **options), json_)


@runs_app.command("list")
def list_runs(
    directory: Annotated[Path, typer.Argument(help="Runs are looked for below it.")] = Path("runs"),
    json_: AsJson = False,
) -> None:
    """List the runs below a folder, the newest first: kind, step, finished or not, loss.

    \b
    Example:
      bevt runs list runs
    """
    from trainer.runs_view import list_runs as run

    rows = run(directory)
    if json_:
        _emit({"runs": rows}, json_)
        return
    for row in rows:
        if "error" in row:
            print(f"{row['run']}: {row['error']}")
            continue
        state = "finished" if row["finished"] else f"last step logged {row['logged'] or 'never'}"
        loss = "".join(
            f", {key} {row['metrics'][key]:.4g}" for key in ("loss", "val_top1") if row["metrics"].get(key) is not None
        )
        print(f"{row['run']}: {row['kind']}, {row['title']}; step {row['step']}{loss}; {state}")


@runs_app.command("show")
def show_run(run: Annotated[Path, typer.Argument(help="A run's directory.")], json_: AsJson = False) -> None:
    """Show one run: its command, data, processes, checkpoints, and the values of its last step.

    \b
    Example:
      bevt runs show runs/joint
    """
    from trainer.runs_view import show_run as show

    _emit(show(run), json_)


@runs_app.command("compare")
def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs.")],
    out: Annotated[Path, typer.Option(help="The PNG of the curves.")] = Path("curves.png"),
    key: Annotated[list[str] | None, typer.Option(help="A value of the log (repeatable). Default: loss.")] = None,
    json_: AsJson = False,
) -> None:
    """Draw curves of several runs into one picture, and name the settings in which the runs differ.

    \b
    Example:
      bevt runs compare runs/joint runs/joint-lr3 --key mvm_loss --out curves.png
    """
    from trainer.runs_view import compare_runs as compare

    _emit(compare(runs, key or ["loss"], out), json_)


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

    overrides = [*(set_ or []), *_overrides({"root": root, "init": init, "dataset": dataset})]
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


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A fine-tuning run or its weights.")],
    videos: Annotated[list[str], typer.Argument(help="Files, directories or globs.")],
    top: Annotated[int, typer.Option(help="Classes per video.")] = 5,
    json_: AsJson = False,
) -> None:
    """Name the classes of videos, with scores; a file that cannot be read does not stop the rest.

    \b
    Example:
      bevt predict runs/finetune-k400 clip.mp4 more-clips/
    """
    from trainer.predict import predict as run

    rows = run(checkpoint, videos, top=top)
    _emit({"videos": rows} if json_ else {row["video"]: row for row in rows}, json_)


@app.command()
def extract(
    checkpoint: Annotated[Path, typer.Argument(help="A fine-tuning run or its weights.")],
    out: Annotated[Path, typer.Option(help="The Parquet file of features.")],
    dataset: Annotated[str, typer.Option(help="How --root is read.")] = "folder",
    root: Annotated[Path | None, typer.Option(help="The files.")] = None,
    frames: Annotated[Path | None, typer.Option(help="A frame store instead of files.")] = None,
    list_file: ListFile = None,
    level: Annotated[
        Literal["pooled", "frames", "stages"], typer.Option(help="One row a video, a frame or a stage.")
    ] = "pooled",
    json_: AsJson = False,
) -> None:
    """Write the encoder's features of every video to a Parquet file.

    \b
    Example:
      bevt extract runs/finetune-k400 --root videos --out features.parquet
    """
    from trainer.extract import extract as run

    _emit(run(checkpoint, _clips(dataset, root, frames, list_file, "val"), out, level=level), json_)


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A .pth or .safetensors file of another code.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write, for --init.")],
    kind: Annotated[
        str, typer.Option(help="official (BEVT), torchvision (swin3d_*) or image-swin (timm, original).")
    ] = "official",
    vocab_size: Annotated[int, typer.Option(help="image-swin: of the tokens to be predicted.")] = 8192,
    json_: AsJson = False,
) -> None:
    """Read another code's checkpoint, strictly: every key is used or known to be dropped.

    \b
    Example:
      bevt import-checkpoint swin_base_bevt.pth --out bevt-base.safetensors
    """
    from functools import partial

    from bevt_core.model_info import num_parameters
    from bevt_core.weights import import_image_swin, import_official, import_torchvision, save_weights

    readers: dict[str, Callable[[Path], Any]] = {
        "official": import_official,
        "torchvision": import_torchvision,
        "image-swin": partial(import_image_swin, vocab_size=vocab_size),
    }
    if kind not in readers:
        raise UserError(f"--kind {kind!r}: expected one of {', '.join(readers)}")
    imported = readers[kind](source)
    save_weights(out, imported.model)
    summary = {"weights": str(out), "parameters": num_parameters(imported.model)}
    _emit({**summary, "dropped": imported.dropped, "fresh": imported.fresh}, json_)


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="A weights.safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="hub: the folder; program: the .pt2 file.")],
    format_: Annotated[
        str, typer.Option("--format", help="hub (Hugging Face layout) or program (torch.export).")
    ] = "hub",
    frames: Annotated[int, typer.Option(help="program: frames of a clip.")] = 32,
    size_px: Annotated[int, typer.Option(help="program: side of a frame.")] = 224,
    json_: AsJson = False,
) -> None:
    """Write a model for use elsewhere; the weights are the same bits.

    \b
    Example:
      bevt export runs/finetune-k400/weights.safetensors --out hub/bevt-k400
    """
    from bevt_core.classifier import Classifier
    from bevt_core.export import save_hub_folder, save_program
    from bevt_core.weights import load_weights

    model = load_weights(weights)
    if format_ == "hub":
        save_hub_folder(out, model)
    elif format_ == "program" and isinstance(model, Classifier):
        save_program(out, model, frames=frames, size_px=size_px)
    else:
        raise UserError(f"--format {format_!r} of a {type(model).__name__}: expected hub, or program of a classifier")
    _emit({"out": str(out), "format": format_}, json_)


@model_app.command("info")
def info(
    name: Annotated[str, typer.Argument(help="A Video Swin size: nano, tiny, small, base or large.")],
    num_classes: Annotated[int, typer.Option(help="400 for Kinetics-400, 174 for Something-Something V2.")] = 400,
    json_: AsJson = False,
) -> None:
    """Show parameters and multiply-adds of the classifier for 16 and 32 frames and both of the paper's windows.

    \b
    Example:
      bevt model info base
    """
    from functools import partial

    from bevt_core.build import SWIN_SIZES, build_classifier
    from bevt_core.model_info import model_info

    if name not in SWIN_SIZES:
        raise UserError(f"model {name!r}: expected one of {', '.join(SWIN_SIZES)}")
    size_px = 64 if name == "nano" else 224
    rows = {}
    for window in ((8, 7, 7), (16, 7, 7)):
        for frames in (16, 32):
            sizes = {**SWIN_SIZES[name], "window": window, "num_classes": num_classes}
            build = partial(build_classifier, **sizes)
            rows[f"window {window} frames {frames}"] = model_info(build, frames=frames, size_px=size_px)
    _emit(rows, json_)


@bench_app.command("encoder")
def bench_encoder(
    size: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
    repeats: Annotated[int, typer.Option(help="Of each, alternating; medians are reported.")] = 5,
    json_: AsJson = False,
) -> None:
    """Video Swin forward and backward against torchvision's, same weights and inputs.

    \b
    Example:
      bevt bench encoder --json
    """
    from bevt_core.benchmarks import bench_encoder as run

    _emit(run(size=size, repeats=repeats), json_)


@bench_app.command("step")
def bench_step(
    size: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
    clips: Annotated[int, typer.Option(help="Of the step.")] = 1,
    images: Annotated[int, typer.Option(help="Of the step; the original has 8 to a clip.")] = 8,
    repeats: Annotated[int, typer.Option(help="Of each, alternating; medians are reported.")] = 5,
    json_: AsJson = False,
) -> None:
    """A joint step with stored tokens against one with the tokenizer in it.

    \b
    Example:
      bevt bench step --size tiny --json
    """
    from bevt_core.benchmarks import bench_step as run

    _emit(run(size=size, clips=clips, images=images, repeats=repeats), json_)


@bench_app.command("loader")
def bench_loader(
    video_tokens: Annotated[Path, typer.Option(help="A token set of videos, 224 px.")],
    root: Annotated[Path, typer.Option(help="Where the videos that it was made from are.")],
    clips: Annotated[int, typer.Option(help="Of a round, spread over the set.")] = 16,
    repeats: Annotated[int, typer.Option(help="Epochs of each, alternating; one more warms up.")] = 8,
    json_: AsJson = False,
) -> None:
    """Clips per CPU-second from shards, against decord on the video files and against a bare JPEG loop.

    \b
    Example:
      bevt bench loader --video-tokens datasets/k400/tokens/dalle-v8 --root /data/k400/train --json
    """
    from trainer.bench_loader import bench_loader as run

    _emit(run(video_tokens, root, clips=clips, repeats=repeats), json_)


@bench_app.command("tokenize")
def bench_tokenize(
    dataset: Dataset,
    work: Annotated[Path, typer.Option(help="An empty folder for what is made.")],
    root: Root = None,
    tokenizer: TokenizerName = None,
    recipe: RecipeName = None,
    small: Annotated[int, typer.Option(help="Sources of the smaller job.")] = 16,
    large: Annotated[int, typer.Option(help="Sources of the larger job.")] = 80,
    cpus: Annotated[int, typer.Option(help="CPUs that Ray is given.")] = 2,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """CPU time and memory of the job against a bare loop that does the same work, by the difference of two sizes.

    \b
    Example:
      bevt bench tokenize --dataset folder --root videos --work /tmp/bench --json
    """
    from pipeline.bench import bench_tokenize as run

    _emit(run(_tokenize_recipe(dataset, root, None, None, tokenizer, recipe, set_), work, (small, large), cpus), json_)


@app.command("demo-videos")
def demo_videos(
    out: Annotated[Path, typer.Argument(help="Gets train/ and test/ with class folders, and images/.")],
    clips: Annotated[int, typer.Option(help="Training clips per class; there are 8 classes.")] = 512,
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


def _tokenize_recipe(
    dataset: str,
    root: Path | None,
    out: Path | None,
    split: str | None,
    tokenizer: str | None,
    recipe: str | None,
    set_: list[str] | None,
) -> "TokenizeRecipe":
    from schemas.recipe_io import load_recipe_of
    from schemas.recipes import TokenizeRecipe

    given = {"root": root, "out": out, "split": split, "tokenizer": tokenizer, "dataset": dataset}
    overrides = [*(set_ or []), *_overrides(given)]
    return load_recipe_of(TokenizeRecipe, recipe or dataset, PIPELINE_RECIPES, overrides)


def _overrides(given: Mapping[str, object]) -> list[str]:
    """`key=value` for what was given; quoted, so that a folder named 2024 stays a name."""
    return [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]


def _share(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UserError(f"--max-rejected {text!r}: expected a share, such as 5% or 0.05") from None


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
