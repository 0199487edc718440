"""The commands that chaos disturbs: how each is called, what it starts from, and what must not depend on any fault."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from bevt_core.dataset.commit_journal import JOURNAL
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.metrics.log import read_metrics

CLASSES, VIDEOS_PER_CLASS = ("left", "right"), 8
PIPELINE = ["sources_per_part=3", "min_parts=1", "views.num_views=2", "pool.max_frames=16", "decode_timeout_s=30"]
TINY = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]"]
LOOP = ["loop.checkpoint_every=4", "loop.log_every=1", "loop.num_workers=1"]
TIMES = {"seconds", "videos_per_second", "seconds_total", "images_per_second"}  # of a result, which no two runs share


@dataclass(frozen=True)
class Scene:
    """A command, what it starts from, and what it must leave however often it is disturbed."""

    name: str
    command: list[str]  # of bevt; "OUT" is the place it writes to
    outcome: Callable[[Path], dict[str, str]]  # facts about that place, by name
    again: list[str] = field(default_factory=list)  # to add when the command goes on
    prepare: Callable[[Path], None] = lambda out: None
    again_when_done: bool = True  # False: a second call after one that succeeded is an error by design

    def argv(self, out: Path, *, resumed: bool) -> list[str]:
        """Return the process's arguments. A run that has no record yet starts anew."""
        more = self.again if resumed and (out / "run.json").is_file() else []
        if resumed and self.again and not more and out.is_dir():
            shutil.rmtree(out)  # stopped before the record: the command asks for an empty folder
        return [sys.executable, "-m", "cli", *(word.replace("OUT", str(out)) for word in self.command), *more]


def make_inputs(base: Path) -> None:
    """Write videos of two classes, one broken file among them, and a tokenizer with random weights."""
    for label, name in enumerate(CLASSES):
        for i in range(VIDEOS_PER_CLASS):
            frames = moving_frames(8 + i, 96, 128, seed=i + 10 * label)
            write_video(base / "raw" / name / f"{i}.mp4", frames[:: 1 - 2 * label])
    (base / "raw" / CLASSES[0] / "broken.mp4").write_bytes(b"no video")
    save_tiny_tokenizer(base / "dvae")


def first_scenes(base: Path) -> list[Scene]:
    """The commands whose results the others read: they are run undisturbed first, into `base`."""
    raw, tokenizer = str(base / "raw"), str(base / "dvae")
    tokenize = ["tokenize", "--dataset", "folder", "--recipe", "nano_video", "--root", raw, "--out", "OUT"]
    finetune = ["finetune", "folder", "--root", raw, "--out", "OUT", *_set(*TINY, *LOOP)]
    finetune += _set(
        "loop.epochs=20", "loop.max_steps=40", "global_batch=4", "validate_every_epochs=5", "val_share=0.25"
    )
    return [
        Scene("tokenize", [*tokenize, "--tokenizer", tokenizer, *_set(*PIPELINE)], dataset_files),
        Scene("finetune", finetune, run_results, ["--resume"]),
    ]


def scenes(base: Path) -> list[Scene]:
    """All commands that are disturbed. `base` holds the inputs, and what `first_scenes` made of them."""
    raw, dataset, classifier = str(base / "raw"), base / "tokenize", str(base / "finetune")
    tokens = str(next(path.parent for path in sorted(dataset.glob("tokens/*/dataset.json"))))
    small = [f"model.{line}" for line in TINY] + ["model.vocab_size=32", "loop.epochs=60", "loop.max_steps=120"]
    small += ["streams.video.global_batch=4", "streams.image.global_batch=6", *LOOP]
    joint = ["train", "joint", "--recipe", "nano_joint", "--video-tokens", tokens, "--image-tokens", tokens]
    own = [
        "tokenizer",
        "train",
        "dvae",
        "--recipe",
        "nano_tokenizer",
        "--frames",
        str(dataset / "frames"),
        "--out",
        "OUT",
    ]
    own += _set("loop.max_steps=40", "global_batch=8", *LOOP)
    frames = ["--frames", str(dataset / "frames")]
    return [
        *first_scenes(base),
        Scene("train", [*joint, "--out", "OUT", *_set(*small)], run_results, ["--resume"]),
        Scene("tokenizer", own, run_results, ["--resume"]),
        Scene(
            "repair",
            ["repair", "OUT", "--root", raw, "--deep"],
            dataset_files,
            prepare=lambda out: damaged_copy(dataset, out),
        ),
        Scene("export-data", ["export-data", str(dataset), "--to", "webdataset", "--out", "OUT"], all_results),
        Scene("evaluate", ["evaluate", classifier, *frames, "--clips", "2", "--out", "OUT"], all_results),
        Scene("extract", ["extract", classifier, *frames, "--out", "OUT/features.parquet"], all_results),
        Scene("probe", ["probe", classifier, *frames, "--kind", "knn", "--out", "OUT"], all_results),
        Scene("export", ["export", classifier, "--out", "OUT"], all_results, again_when_done=False),
    ]


def dataset_files(out: Path) -> dict[str, str]:
    """The digest of each file of a dataset, without reports and journals, which have times in them."""
    folders = (out / "frames", out / "tokens")
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in found if path.name != JOURNAL]
    return {str(file.relative_to(out)): _digest(file.read_bytes()) for file in files if file.suffix != ".html"}


def run_results(out: Path) -> dict[str, str]:
    """A run's losses by step, and its weights."""
    losses = [(line["step"], line["loss"]) for line in read_metrics(out)]
    weights = sorted([*out.glob("weights.safetensors"), *out.glob("tokenizer/*.safetensors")])
    return {"losses": json.dumps(losses)} | {path.name: _digest(path.read_bytes()) for path in weights}


def all_results(out: Path) -> dict[str, str]:
    """The content of each file below `out`: rows of Parquet, values of JSON less the times, bytes of the others."""
    return {str(path.relative_to(out)): _content(path) for path in sorted(out.rglob("*")) if path.is_file()}


def damaged_copy(dataset: Path, out: Path) -> None:
    """Copy a dataset; flip a byte of a frame part, cut a token part, and remove a commit."""
    shutil.copytree(dataset, out)
    parts = sorted((out / "frames").glob("part-*"))
    frames = max((path for path in parts[0].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(frames.read_bytes())
    content[len(content) // 2] ^= 1
    frames.write_bytes(content)
    tokens = sorted(out.glob("tokens/*/part-*.parquet"))
    tokens[1].write_bytes(tokens[1].read_bytes()[:100])
    (parts[2] / "commit.json").unlink()


def _content(path: Path) -> str:
    if path.suffix == ".parquet":
        return _digest(repr(pq.read_table(path).to_pylist()).encode())
    if path.suffix == ".json":
        return _digest(json.dumps(_without_times(json.loads(path.read_text()))).encode())
    return _digest(path.read_bytes())


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _set(*lines: str) -> list[str]:
    return [word for line in lines for word in ("--set", line)]
