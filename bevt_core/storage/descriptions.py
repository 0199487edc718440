"""What a folder or file of ours is, in words, for the message where another one was wanted."""

import itertools
from typing import Any

from bevt_core.storage.files import read_bounded
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.text.json_text import parse_json
from schemas.text.yaml_text import read_yaml

RECIPE, RECORD = "recipe.yaml", "run.json"  # of a run's directory
RUNS = {
    "pretrain": "a pretraining run",
    "finetune": "a fine-tuning run",
    "tokenizer": "a tokenizer's training run",
}
MARKS = (  # a file in a folder, and what the folder is by it
    ("tokenizer.json", "a tokenizer"),
    ("evaluation-plan.json", "an evaluation"),
    ("checkpoint.json", "a checkpoint of a run"),
    ("commit.json", "a part of a frame store"),
    ("classifier.json", "a classifier's weights"),
    ("config.json", "a folder in Hugging Face's layout"),
)
UNFINISHED = "not finished (go on with --resume)"
SHOWN = 3  # names of a folder's content
MAX_JSON_BYTES = 16 << 20


def what_is(place: AnyPath) -> str:
    """Return what `place` is, such as "a frame store" or "an empty folder"; a local run with where its tokenizer is."""
    if place.is_file():
        return "a file"
    if not place.is_dir():
        return "no such file or folder"
    if (place / RECORD).is_file():
        return _run(place)
    manifest = _json(place / "dataset.json")
    if "tokenizer" in manifest:
        return f"a token set of the frame store {place.parent.parent / 'frames'}"
    if "pool" in manifest:
        return f"a frame store ({_token_sets(place.parent)})"
    if (place / "frames").is_dir() and (place / "frames" / "plan.json").is_file():
        return f"a dataset (frame store {place / 'frames'}, {_token_sets(place)})"
    if (place / "plan.json").is_file():
        return "a frame store or token set that is not finished"
    for mark, what in MARKS:
        if (place / mark).is_file():
            return what
    return _other(place)


def is_made_here(place: AnyPath) -> bool:
    """Whether a folder is one that a command of bevt wrote, which holds no videos or pictures to read."""
    known = [RUNS.values(), (what for _, what in MARKS), ("a token set", "a frame store", "a dataset", "a run")]
    return what_is(place).startswith(tuple(itertools.chain(*known)))


def kind_of_run(place: AnyPath) -> str | None:
    """Return the kind of the recipe of a run's directory: pretrain, finetune or tokenizer; None where there is none."""
    if not (place / RECORD).is_file() or not (place / RECIPE).is_file():
        return None
    try:
        recipe = read_yaml(read_bounded(place / RECIPE, MAX_JSON_BYTES), place / RECIPE)
    except (OSError, ValueError):
        return None
    kind = recipe.get("kind") if isinstance(recipe, dict) else None
    return kind if kind in RUNS else None


def _run(place: AnyPath) -> str:
    kind = kind_of_run(place)
    if kind is None:
        return "a run whose recipe cannot be read"
    if kind == "tokenizer":
        finished = (place / "tokenizer" / "tokenizer.json").is_file()
        return f"{RUNS[kind]} (its tokenizer: {place / 'tokenizer'})" if finished else f"{RUNS[kind]}, {UNFINISHED}"
    return RUNS[kind] if (place / "weights.safetensors").is_file() else f"{RUNS[kind]}, {UNFINISHED}"


def _token_sets(dataset: AnyPath) -> str:
    """The finished token sets of a dataset, for a message."""
    found = sorted(str(path.parent) for path in (dataset / "tokens").glob("*/dataset.json"))
    if not found:
        return "no token sets"
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"token set{'s' if len(found) > 1 else ''} {', '.join(found[:SHOWN])}{more}"


def _other(place: AnyPath) -> str:
    try:
        names = storage_of(place).names()
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    if names is None:
        return "a folder of other things"
    if not names:
        return "an empty folder"
    return f"a folder of other things ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def _json(path: AnyPath) -> dict[str, Any]:
    """The JSON object in a file; empty where it holds something else."""
    try:
        return parse_json(read_bounded(path, MAX_JSON_BYTES).decode(), dict, path)
    except (OSError, ValueError):
        return {}
