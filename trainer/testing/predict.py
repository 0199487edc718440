"""Predict class names with scores for files, folders and globs; an unreadable file does not stop the others."""

import functools
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bevt_core.console.terminal import note
from bevt_core.media.kinds import count_suffixes, is_hidden, kind_of
from bevt_core.models.classifier import Classifier
from bevt_core.untrusted.files import unreadable
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.recipes import DECODE_TIMEOUT_S
from trainer.clips.multi_view import Row, ViewPlan, map_parts, video_progress
from trainer.clips.sources import FileClips
from trainer.distributed.world import join_world
from trainer.engine.precision import resolve
from trainer.runs.directory import weights_of
from trainer.testing.classifier_card import read_card
from trainer.testing.evaluate import chosen_views, score

NO_MEDIA = "no videos or pictures"


def predict(
    checkpoint: Path | str,
    paths: Sequence[str],
    *,
    clips: int | None = None,
    crops: int | None = None,
    top: int = 5,
    precision: str = "auto",
    decode_timeout_s: float = DECODE_TIMEOUT_S,
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Return a row per file: `video`, and `classes` ([{name, score}], best first) or `error`.

    `paths` are files, folders or globs; those without any file get a row with `error`, after the others. `checkpoint`
    is a fine-tuning run, its weights, or a folder that `bevt export` wrote. Views and `precision` are those of
    `evaluate`. Raises UserError for a model without a head, or if there are no files.
    """
    weights = weights_of(checkpoint)
    card = read_card(weights)
    found = {path: find_media(path) for path in paths}
    items = tuple(item_of(file) for file in dict.fromkeys(file for files in found.values() for file in files))
    if not items:
        raise UserError(f"{', '.join(paths)}: {NO_MEDIA} found; give files, folders or globs")
    data = FileClips(Path(), items, card.classes, decode_timeout_s)
    plan = ViewPlan(card.sampling, card.crop_px, chosen_views(card, clips, crops), "normal", seed=0)
    predictions = []
    with join_world() as world:
        model = load_weights(weights)
        assert isinstance(model, Classifier)
        model.to(world.device).eval()
        parts = range(len(plan.parts(data)))
        work = functools.partial(score, model)
        chosen = resolve(precision, world.device)
        options: dict[str, Any] = {"device": world.device, "precision": chosen, "num_workers": num_workers}
        with video_progress("predict", data, plan, parts, len(parts)) as on_progress:
            for _, rows in map_parts(work, data, plan, parts, on_progress=on_progress, **options):
                predictions += [_best(row, card.classes, top) for row in rows]
    return predictions + [{"video": path, "error": f"{NO_MEDIA} found"} for path, files in found.items() if not files]


def _best(row: Row, classes: Sequence[str], top: int) -> dict[str, Any]:
    if row["error"] is not None:
        return {"video": row["video"], "error": row["error"]}
    best = row["scores"].argsort()[::-1][:top]
    named = [{"name": classes[label], "score": round(float(row["scores"][label]), 4)} for label in best]
    return {"video": row["video"], "classes": named}


def find_media(path: str) -> list[Path]:
    """Expand a folder (videos and pictures below it) or a glob; return any other path unchanged, even if missing."""
    if glob.has_magic(path) and not Path(path).exists():
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
        return [Path(match) for match in matches if Path(match).is_file()]
    if Path(path).is_dir():
        files = sorted(_files_below(Path(path)))
        others = count_suffixes(str(path) for path in files if kind_of(str(path)) is None)
        if others:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
            note(f"{path}: files not used: {counts}")
        return [path for path in files if kind_of(str(path)) is not None]
    return [Path(path)]


def _files_below(folder: Path) -> Iterator[Path]:
    """All files except hidden ones, at any depth. Raises UserError for a folder that cannot be read."""

    def refuse(error: OSError) -> None:
        raise unreadable(error, Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(parent, name) for name in names if not is_hidden(name))


def item_of(path: Path) -> SourceItem:
    """Return a file as an unlabelled item; a file of unknown kind counts as a video."""
    return SourceItem(source=str(path), kind=kind_of(str(path)) or "video")
