"""Look up rows of results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from verdicts import Measured

Results = Mapping[str, Any]
Row = Mapping[str, Any]


def top1(results: Results, name: str, share: float, labels: str = "motion") -> Measured:
    """Test accuracies of the fine-tunings from `name`."""
    wanted = (labels, name, share)
    return _measured([row for row in results["finetune"] if (row["labels"], row["name"], row["share"]) == wanted])


def tuned(results: Results, name: str) -> Measured:
    """Test accuracies of the fine-tunings from `name` with the settings of its best trial."""
    return _measured([row for row in results["tuned"] if row["name"] == name])


def best_trial(results: Results, name: str) -> Row:
    """The trial of `name` with the highest held-out accuracy, the first of equals; or nothing."""
    return max((row for row in results["trials"] if row["name"] == name), key=lambda row: row["top1"], default={})


def temporal(results: Results, name: str, frames: str) -> Measured:
    """Test accuracies with changed frames, on the test clips of camera motion."""
    return _measured([row for row in results["temporal"] if (row["name"], row["frames"]) == (name, frames)])


def _measured(rows: Sequence[Row]) -> Measured:
    return Measured([row["top1"] for row in rows], min((row["videos"] for row in rows), default=0))


def masked_accuracy(results: Results, name: str, mask: str) -> list[float]:
    return [row["accuracy"] for row in results["masked"] if (row["name"], row["mask"]) == (name, mask)]


def pretrained(results: Results, name: str) -> list[Row]:
    return [row for row in results["pretrain"] if row["name"] == name]


def token_set(results: Results, name: str) -> Row:
    """The row of a token set, or nothing."""
    return next((row for row in results["tokens"] if row["name"] == name), {})


def label_sets(results: Results) -> list[tuple[str, float]]:
    """Label sets other than camera motion, with their shares of labels."""
    return sorted({(row["labels"], row["share"]) for row in results["finetune"] if row["labels"] != "motion"})


def costs_of(results: Results) -> list[tuple[str, int, str, int]]:
    """Kind of runs, their number, steps of each, and CPU seconds in all."""
    found = []
    for kind in ("pretrain", "finetune", "tokens"):
        rows: Sequence[Row] = results[kind]
        steps = ", ".join(map(str, sorted({row["steps"] for row in rows if "steps" in row})))
        found.append((kind, len(rows), steps, round(sum(row["cpu_s"] or 0 for row in rows))))
    return found
