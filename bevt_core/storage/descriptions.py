"""Describes what kind of file or folder a path is, for the error when another kind was expected."""

import itertools
from typing import Any

from bevt_core.storage.files import read_bounded
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.text.json_text import parse_json
from schemas.text.yaml_text import read_yaml

RECIPE, RECORD = "recipe.yaml", "run.json"  # files of a run's directory
RUNS = {  # kind of recipe -> description
    "pretrain": "a pretraining run",
    "finetune": "a fine-tuning run",
    "tokenizer": "a tokenizer's training run",
}
MARKS = (  # name of a file, and the description of a folder that contains it
    ("tokenizer.json", "a tokenizer"),
    ("evaluation-plan.json", "an evaluation"),
    ("checkpoint.json", "a checkpoint of a run"),
    ("commit.json", "a part of a frame store"),
    ("classifier.json", "a classifier's weights"),
    ("pretrained.json", "a pretrained model"),
    ("config.json", "a folder in Hugging Face's layout"),
)
UNFINISHED = "not finished (continue with --resume)"
SHOWN = 3  # names in a message
MAX_JSON_BYTES = 16 << 20


def what_is(path: AnyPath) -> str:
    """Describe `path`, as "a frame store" or "an empty folder"; a tokenizer's run also with its tokenizer's path."""
    if path.is_file():
        return "a file"
    if not path.is_dir():
        return "no such file or folder"
    if (path / RECORD).is_file():
        return _run(path)
    manifest = _json(path / "dataset.json")
    if "tokenizer" in manifest:
        return f"a token set of the frame store {path.parent.parent / 'frames'}"
    if "pool" in manifest:
        return f"a frame store ({_token_sets(path.parent)})"
    if (path / "frames").is_dir() and (path / "frames" / "plan.json").is_file():
        return f"a dataset (frame store {path / 'frames'}, {_token_sets(path)})"
    if (path / "plan.json").is_file():
        return "a frame store or token set that is not finished"
    for mark, what in MARKS:
        if (path / mark).is_file():
            return what
    return _other(path)


def dataset_around(path: AnyPath) -> str:
    """Return the dataset that contains the frame store or token set `path`, to suggest it; else words for a dataset."""
    dataset = path.parent if path.name == "frames" else path.parent.parent if path.parent.name == "tokens" else None
    if dataset is not None and (dataset / "frames" / "plan.json").is_file():
        return str(dataset)
    return "the folder that `bevt tokenize` wrote"


def is_our_output(path: AnyPath) -> bool:
    """Whether a command of bevt wrote the folder, so that it contains no raw videos or images."""
    known = [RUNS.values(), (what for _, what in MARKS), ("a token set", "a frame store", "a dataset", "a run")]
    return what_is(path).startswith(tuple(itertools.chain(*known)))


def kind_of_run(path: AnyPath) -> str | None:
    """Return the kind of a run's recipe: pretrain, finetune or tokenizer; None if there is no readable recipe."""
    if not (path / RECORD).is_file() or not (path / RECIPE).is_file():
        return None
    try:
        recipe = read_yaml(read_bounded(path / RECIPE, MAX_JSON_BYTES), path / RECIPE)
    except (OSError, ValueError):
        return None
    kind = recipe.get("kind") if isinstance(recipe, dict) else None
    return kind if kind in RUNS else None


def _run(path: AnyPath) -> str:
    kind = kind_of_run(path)
    if kind is None:
        return "a run whose recipe cannot be read"
    if kind == "tokenizer":
        finished = (path / "tokenizer" / "tokenizer.json").is_file()
        return f"{RUNS[kind]} (its tokenizer: {path / 'tokenizer'})" if finished else f"{RUNS[kind]}, {UNFINISHED}"
    return RUNS[kind] if (path / "weights.safetensors").is_file() else f"{RUNS[kind]}, {UNFINISHED}"


def _token_sets(dataset: AnyPath) -> str:
    """The finished token sets of a dataset, for a message."""
    found = sorted(str(path.parent) for path in (dataset / "tokens").glob("*/dataset.json"))
    if not found:
        return "no token sets"
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"token set{'s' if len(found) > 1 else ''} {', '.join(found[:SHOWN])}{more}"


def _other(path: AnyPath) -> str:
    try:
        names = storage_of(path).names()
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    if names is None:
        return "a folder with other content"
    if not names:
        return "an empty folder"
    return f"a folder with other content ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def _json(path: AnyPath) -> dict[str, Any]:
    """The JSON object in a file; empty if the file cannot be read or contains anything else."""
    try:
        found: dict[str, Any] = parse_json(read_bounded(path, MAX_JSON_BYTES).decode(), dict, path)
        return found
    except (OSError, ValueError):
        return {}
