"""Probe frozen features for classes: nearest neighbours, a linear layer, or attention followed by a linear layer.

Legend: N videos, P positions of a clip, C channels, V classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from bevt_core.storage.files import write_atomic
from bevt_core.storage.one_writer import hold
from bevt_core.untrusted.parquet_file import ParquetFile
from schemas.errors import UserError
from schemas.evaluation import FeatureLevel
from schemas.recipes import FinetuneRecipe
from schemas.recipes.loading import nearest
from schemas.text.json_text import json_text
from trainer.clips.lists import digests_of
from trainer.clips.overlap import overlaps, warn_of_overlap
from trainer.clips.sources import ClipSource, check_classes, check_labels
from trainer.distributed.world import join_world
from trainer.probes.attentive import fit_attentive
from trainer.probes.knn import knn_predict
from trainer.probes.linear import linear_predict
from trainer.runs.directory import weights_of
from trainer.testing.evaluate import accuracies
from trainer.testing.extract import extract

RESULT = "probe.json"


class FeatureFile:
    """The features that `extract` wrote, one row group at a time, without the videos that could not be read."""

    def __init__(self, path: Path) -> None:
        self.file = ParquetFile(path)

    def __len__(self) -> int:
        return self.file.num_row_groups

    def __getitem__(self, group: int) -> tuple[Tensor, Tensor]:
        """Return the features (N, P, C) and labels (N) of a row group."""
        table = self.file.read_row_group(group, columns=["label", "features"])
        table = table.filter(pc.is_valid(table["features"]))
        vectors = table["features"].combine_chunks().flatten()
        numbers = vectors.flatten().to_numpy(zero_copy_only=False)
        num_videos, num_vectors = len(table), len(vectors)
        shape = (num_videos, num_vectors // max(num_videos, 1), len(numbers) // max(num_vectors, 1))
        labels_N = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
        return torch.from_numpy(numbers.reshape(shape).copy()), labels_N

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return the features (N, C) and labels (N) of all videos of a file with one vector each."""
        features, labels = zip(*_row_groups(self), strict=True)
        return torch.cat([group_NPC[:, 0] for group_NPC in features]), torch.cat(labels)


class Probe(NamedTuple):
    """A kind of probe: the features that it reads, and (train, test, V, seed, device) -> predicted and true classes."""

    level: FeatureLevel
    predict: Callable[[FeatureFile, FeatureFile, int, int, torch.device], tuple[Tensor, Tensor]]


def _knn(
    train: FeatureFile, test: FeatureFile, num_classes: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    (train_NC, train_N), (test_NC, test_N) = train.pooled(), test.pooled()
    return knn_predict(train_NC.to(device), train_N, test_NC, num_classes).cpu(), test_N


def _linear(
    train: FeatureFile, test: FeatureFile, num_classes: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    (train_NC, train_N), (test_NC, test_N) = train.pooled(), test.pooled()
    predicted_N = linear_predict(train_NC.to(device), train_N.to(device), test_NC.to(device), num_classes, seed)
    return predicted_N.cpu(), test_N


def _attentive(
    train: FeatureFile, test: FeatureFile, num_classes: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    classify = fit_attentive(train, num_classes, seed, device)
    predicted, labels = zip(
        *((classify(x_NPC).argmax(dim=1), label_N) for x_NPC, label_N in _row_groups(test)), strict=True
    )
    return torch.cat(predicted).cpu(), torch.cat(labels)


PROBES: dict[str, Probe] = {
    "knn": Probe("pooled", _knn),
    "linear": Probe("pooled", _linear),
    "attentive": Probe("positions", _attentive),
}


def probe(
    checkpoint: Path | str,
    train: ClipSource,
    test: ClipSource,
    out: Path,
    *,
    kinds: Sequence[str] = ("knn", "linear"),
    recipe: FinetuneRecipe | None = None,
    clips: int | None = None,
    crops: int | None = None,
    seed: int = 0,
    precision: str = "auto",
    num_workers: int = 0,
) -> dict[str, Any]:
    """Probe the frozen encoder of `checkpoint` on labelled clips; every process of the job calls this.

    Features go to the folder `out`, from which a repeated call resumes; rank 0 fits the probes and writes `probe.json`.
    `recipe`, `clips` and `crops` are as in `extract`; by default, an attentive probe gets a single view. `precision` is
    the encoder's, also as in `extract`; the probes are fitted in fp32. Returns, by kind, top1, mean_class, num_videos,
    num_failed and failed of the test videos, and their overlap with the clips that the encoder was trained on
    (`trainer.clips.overlap`). Raises UserError for an unknown kind, and for data without the same classes.
    """
    for kind in kinds:
        if kind not in PROBES:
            raise UserError(f"probe {kind!r}: {nearest(kind, list(PROBES))}expected one of {', '.join(PROBES)}")
    for source in (train, test):
        check_labels(source)
    check_classes(test.classes, train.classes, test.path, train.path)
    failed: dict[str, str] = {}
    with join_world() as world, ExitStack() as locks:
        world.on_main(lambda: locks.enter_context(hold(out, "bevt probe")))
        # positions first: views that they do not support are refused before any work
        for level in sorted({PROBES[kind].level for kind in kinds}, key=lambda level: level != "positions"):
            default = 1 if level == "positions" else None  # clips and crops; None: the recipe's
            options: dict[str, Any] = {"level": level, "recipe": recipe, "precision": precision}
            options |= {"clips": default if clips is None else clips, "crops": default if crops is None else crops}
            for name, source in (("train", train), ("test", test)):
                file = _features(out, name, level)
                written = extract(checkpoint, source, file, num_workers=num_workers, **options)
                failed |= written["failed"] if name == "test" else {}
        digests = digests_of(test, world)
        if not world.is_main:
            return {}
        overlap = overlaps(weights_of(checkpoint).parent, test, digests)
        warn_of_overlap(overlap)
        result: dict[str, Any] = {}
        for kind in kinds:
            fit_on, test_on = (FeatureFile(_features(out, name, PROBES[kind].level)) for name in ("train", "test"))
            predicted_N, label_N = PROBES[kind].predict(fit_on, test_on, len(train.classes), seed, world.device)
            result[kind] = _figures(predicted_N, label_N, failed, len(train.classes)) | overlap
        write_atomic(out / RESULT, (json_text(result, indent=1) + "\n").encode())
        return result


def _figures(predicted_N: Tensor, label_N: Tensor, failed: dict[str, str], num_classes: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"video": "", "label": label, "rank": int(predicted != label), "error": None}
        for predicted, label in zip(predicted_N.tolist(), label_N.tolist(), strict=True)
    ]
    rows += [{"video": name, "label": None, "rank": None, "error": error} for name, error in failed.items()]
    figures = accuracies(rows, num_classes)
    del figures["top5"]  # a probe predicts one class
    return figures


def _row_groups(features: FeatureFile) -> Iterator[tuple[Tensor, Tensor]]:
    """The features (N, P, C) and labels (N) of the row groups that have videos."""
    return (row_group for row_group in (features[group] for group in range(len(features))) if len(row_group[1]))


def _features(out: Path, name: str, level: FeatureLevel) -> Path:
    return out / f"{name}-{level}.parquet"
