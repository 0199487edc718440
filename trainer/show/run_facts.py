"""The facts that decide a fine-tuning run's accuracy, from its directory and those of the runs that it started from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.console.readable import count
from bevt_core.console.terminal import note
from bevt_core.models.build import SWIN_SIZES
from bevt_core.storage.descriptions import RECIPE, RECORD, what_is
from bevt_core.storage.files import read_bounded, read_json_file, read_record, sha256_of
from bevt_core.storage.objects import as_path
from bevt_core.weights.hub_models import cached_folder
from bevt_core.weights.packaged import PRETRAINED_CARD
from schemas.errors import UserError
from schemas.evaluation import EvaluationPlan, PretrainedCard
from schemas.models import SwinConfig, TimeSformerConfig
from schemas.recipes import FinetuneRecipe, LoopConfig, OnlineTokens, PretrainRecipe
from schemas.runs import RunRecord
from schemas.text.hub_name import hub_name
from schemas.text.yaml_text import MAX_BYTES, read_yaml
from schemas.tokens import TokenSetManifest
from trainer.clips.lists import read_lists
from trainer.clips.overlap import PRETRAINING, TRAINING
from trainer.metrics.log import read_metrics
from trainer.runs.directory import WEIGHTS, read_run, weights_of
from trainer.testing.evaluate import PLAN, RESULT

UNKNOWN = "unknown"  # a fact that the directories do not contain
FINE_TUNING, UNLABELLED = "fine-tuning (labelled)", "pretraining (unlabelled)"  # uses of clips before a test


@dataclass(frozen=True)
class Setting:
    """The settings that must be equal for two accuracies to be comparable. A report names unequal fields."""

    data: str  # the dataset's name
    encoder: str  # "Swin-B", ...
    pretraining: str  # the stages, in order: "image -> joint"; "none" is from scratch
    tokenizer: str
    image_epochs: str  # of BEVT-I; "" without such a stage
    video_epochs: str  # of the last stage with videos: passes over the videos
    epochs: str  # of fine-tuning
    frames: str  # of a clip, and how they are chosen
    views: str  # "clips x crops"


@dataclass(frozen=True)
class RunFacts:
    """A fine-tuning run: its setting and its test results."""

    run: str
    title: str
    setting: Setting
    top1: float | None  # of an evaluation, else of the last validation during training
    mean_class: float | None
    num_videos: int | None
    data: str  # location of the test videos
    tested: str  # where the figures come from
    evaluated: bool  # by `bevt evaluate`
    overlaps: dict[str, str]  # of the test videos with those of each use that they were compared with; "none", ...
    multiply_adds_per_view: int | None


def facts_of(directories: Sequence[Path]) -> list[RunFacts]:
    """Return the facts of every finished fine-tuning run in or below `directories`, once for each of its test sets.

    Evaluations are also read from `directories`, except those with a video that the run, or one before it, was
    fine-tuned on. A run without evaluations has the figures of its last validation. Raises UserError if there is no
    run, and for a directory that does not exist.
    """
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory}: {what_is(directory)}; expected the directory of a run or of an evaluation")
    evaluations = _evaluations(directories)
    runs = sorted({path.parent for folder in directories for path in folder.rglob(RECORD)})
    found = []
    for run in runs:
        if _kind(run) == "finetune" and (run / WEIGHTS).is_file():
            recipe, record = read_run(run)
            assert isinstance(recipe, FinetuneRecipe)
            by_data = evaluations.get(sha256_of(run / WEIGHTS), {})
            tests: list[Path | None] = [
                folder
                for data, folder in by_data.items()
                if data != record.datasets["train"].digest and not _was_trained_on(folder)
            ]
            found += [_facts(run, recipe, record, folder) for folder in tests or [None]]
    if not found:
        raise UserError(
            f"no finished fine-tuning run in {', '.join(map(str, directories))}; give directories that "
            "`bevt finetune` wrote, and those that `bevt evaluate --out` wrote for them"
        )
    return found


def check_evaluations(checkpoint: Path | str, weights: Path, evaluations: Sequence[Path]) -> None:
    """Raise UserError unless each of `evaluations` contains a finished one of `weights`, those of a fine-tuning run."""
    if evaluations and _kind(weights.parent) != "finetune":
        raise UserError(f"`evaluation` {evaluations[0]}: {checkpoint} is not a fine-tuning run; drop `evaluation`")
    for folder in evaluations:
        found = _evaluations([folder])
        if sha256_of(weights) in found:
            continue
        what = "evaluations of other weights" if found else what_is(folder)
        raise UserError(
            f"`evaluation` {folder}: {what}; expected a folder that `bevt evaluate {checkpoint} --out` wrote, finished "
            "and with frames in order"
        )


def _overlap(evaluation: Path, key: str) -> dict[str, Any]:
    """An evaluation's overlap with training or pretraining; `count` is None if an older version did not record it."""
    result: dict[str, dict[str, Any]] = read_json_file(evaluation / RESULT, dict)
    return result.get(key, {"count": None})


def _was_trained_on(evaluation: Path) -> bool:
    """Whether some of the tested videos were trained on; if so, a note says that the evaluation is left out."""
    count = _overlap(evaluation, TRAINING)["count"]
    if count:
        note(f"{evaluation} is left out: {count} of its videos were trained on")
    return bool(count)


def _describe_overlap(overlap: dict[str, Any]) -> str:
    known = []
    if overlap["count"]:
        total, runs = round(overlap["count"] / overlap["share"]), ", ".join(overlap["by_run"])
        known.append(f"{overlap['count']} of {total} tested clips, by {runs}")
    is_known = overlap["count"] is not None and not overlap.keys() & {"unlisted", "unchecked"}
    return "; ".join(known + ([] if is_known else [f"others {UNKNOWN}" if known else UNKNOWN])) or "none"


def _kind(run: Path) -> str | None:
    """The kind of a run's recipe, without checking the rest, which another version may have written."""
    path = run / RECIPE
    if not path.is_file():
        return None
    recipe = read_yaml(read_bounded(path, MAX_BYTES), path)
    return recipe.get("kind") if isinstance(recipe, dict) else None


def _facts(run: Path, recipe: FinetuneRecipe, record: RunRecord, evaluation: Path | None) -> RunFacts:
    if evaluation is not None:
        result = read_json_file(evaluation / RESULT, dict)
        data, tested, tested_views = result.get("data", UNKNOWN), str(evaluation), result["views"]
        top1, mean_class, num_videos = result["top1"], result["mean_class"], result["num_videos"]
        multiply_adds = result.get("multiply_adds_per_view")
        uses = {FINE_TUNING: TRAINING, UNLABELLED: PRETRAINING}
        compared = {use: _describe_overlap(_overlap(evaluation, key)) for use, key in uses.items()}
    else:
        last: dict[str, Any] = next((line for line in reversed(read_metrics(run)) if "val_top1" in line), {})
        top1, mean_class, num_videos = (last.get(f"val_{key}") for key in ("top1", "mean_class", "videos"))
        data = record.datasets["val"].path
        tested, tested_views = "validation during training", "1x1"
        multiply_adds, compared = None, {}
        lists = read_lists(run)
        if lists is not None:
            compared[FINE_TUNING] = f"{lists.val_trained_on} validation clips" if lists.val_trained_on else "none"
        if lists is not None and lists.val_trained_on:
            top1 = mean_class = num_videos = None
    stages, sampling = stages_of(recipe.init), recipe.sampling
    videos = [stage for stage in stages if "video" in stage.streams]
    images = [stage for stage in stages if "video" not in stage.streams]
    setting = Setting(
        data=recipe.dataset,
        encoder=encoder_name(recipe.encoder),
        pretraining=_pretraining(recipe.init, stages),
        tokenizer=tokenizer_before(recipe.init),
        image_epochs=epochs_of(images[-1].loop) if images else "",
        video_epochs=epochs_of(videos[-1].loop) if videos else "",
        epochs=epochs_of(recipe.loop),
        frames=f"{sampling.frames} {sampling.spacing}",
        views=tested_views,
    )
    return RunFacts(
        run=str(run),
        title=recipe.title,
        setting=setting,
        top1=top1,
        mean_class=mean_class,
        num_videos=num_videos,
        data=data,
        tested=tested,
        evaluated=evaluation is not None,
        overlaps=compared,
        multiply_adds_per_view=multiply_adds,
    )


def stages_of(init: str | None) -> list[PretrainRecipe]:
    """Return the recipes of the pretraining runs that lead to `init`, oldest first; a deleted run ends the chain."""
    stages: list[PretrainRecipe] = []
    while init is not None:
        folder = _folder_of(init)
        if _kind(folder) != "pretrain":
            break
        recipe = read_run(folder)[0]
        assert isinstance(recipe, PretrainRecipe)
        stages.append(recipe)
        init = recipe.init
    return stages[::-1]


def epochs_of(loop: LoopConfig) -> str:
    return f"{loop.epochs:g}" + ("" if loop.max_steps is None else f", stopped after {count(loop.max_steps, 'step')}")


def _pretraining(init: str | None, stages: Sequence[PretrainRecipe]) -> str:
    if init is None:
        return "none"
    first = stages[0].init if stages else init
    names = [] if first is None else [UNKNOWN if _card_of(first) is None else _short_name(first)]
    for stage in stages:
        name = "joint" if len(stage.streams) == 2 else next(iter(stage.streams))
        names.append(f"{name}, separate encoders" if stage.model.share_encoder == "separate" else name)
    return " -> ".join(names)


def _short_name(init: str) -> str:
    name = hub_name(init)
    return _folder_of(init).name if name is None else name.repository


def _folder_of(init: str) -> Path:
    """The folder of the weights `init`; a model on the Hub is only looked up in the cache, to need no network."""
    name = hub_name(init)
    return weights_of(init).parent if name is None else cached_folder(name) or Path(init)


def _card_of(init: str) -> PretrainedCard | None:
    """The description of a packaged model or of an exported pretraining run, whose own stages are not recorded."""
    return read_record(_folder_of(init) / PRETRAINED_CARD, PretrainedCard)


def tokenizer_before(init: str | None) -> str:
    """Return the tokenizer's name of the pretraining that leads to `init`."""
    if init is not None and hub_name(init) is not None and not _folder_of(init).is_dir():
        return UNKNOWN
    stages = stages_of(init)
    card = None if stages or init is None else _card_of(init)
    return tokenizer_of_stages(stages) if card is None else card.origin.get("tokenizer", UNKNOWN)


def tokenizer_of_stages(stages: Sequence[PretrainRecipe]) -> str:
    """Return the tokenizer's name from the last stage's token sets, or from the name of a set that no longer exists."""
    names = set()
    for stage in stages[-1:]:
        for stream in stage.streams.values():
            if isinstance(stream.tokens, OnlineTokens):
                names.add(Path(stream.tokens.tokenizer).name)
                continue
            for path in stream.token_sets:
                manifest = read_record(as_path(path) / "dataset.json", TokenSetManifest)
                names.add(manifest.tokenizer.name if manifest is not None else Path(path).name.rpartition("-v")[0])
    return ", ".join(sorted(names)) or "none"


def tokenizer_digests(recipe: PretrainRecipe) -> str:
    """Return the digests of the weights that made the tokens of a run; empty if no token set exists any more."""
    sets = [as_path(path) for stream in recipe.streams.values() for path in stream.token_sets]
    manifests = [read_record(path / "dataset.json", TokenSetManifest) for path in sets]
    return ", ".join(dict.fromkeys(found.tokenizer.weights_sha256 for found in manifests if found is not None))


def encoder_name(encoder: SwinConfig | TimeSformerConfig) -> str:
    """Return a name such as `Swin-B` for the sizes that have one, and the sizes themselves for others."""
    if isinstance(encoder, TimeSformerConfig):
        return "TimeSformer-B" if (encoder.embed_dim, encoder.depth) == (768, 12) else f"TimeSformer {encoder.depth}"
    for name, sizes in SWIN_SIZES.items():
        if (sizes["embed_dim"], tuple(sizes["depths"])) == (encoder.embed_dim, encoder.depths):
            return f"Swin-{name[0].upper()}" if name != "nano" else "Swin-nano"
    return f"Swin {encoder.embed_dim} {encoder.depths}"


def _evaluations(directories: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Finished evaluations with frames in order, by digests of weights and data; of several, that with most views."""
    best: dict[tuple[str, str], tuple[int, Path]] = {}
    for folder in sorted({path.parent for directory in directories for path in directory.rglob(PLAN)}):
        plan = read_record(folder / PLAN, EvaluationPlan)
        if plan is None or plan.temporal != "normal" or not (folder / RESULT).is_file():
            continue
        views = plan.views.clips * plan.views.crops
        key = plan.weights_sha256, plan.data_digest
        if views > best.get(key, (0, folder))[0]:
            best[key] = (views, folder)
    by_weights: dict[str, dict[str, Path]] = {}
    for (weights, data), (_, folder) in best.items():
        by_weights.setdefault(weights, {})[data] = folder
    return by_weights
