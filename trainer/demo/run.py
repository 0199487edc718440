"""`bevt demo`: the commands of a user one after another, on generated videos."""

import contextlib
import csv
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.console.inert import one_line
from bevt_core.console.terminal import show
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import read_json_file, write_atomic
from bevt_core.storage.one_writer import writes
from schemas.errors import UserError
from schemas.text.json_text import json_text
from trainer.demo.report import ORDERS, Accuracies, write_report
from trainer.testing.evaluate import RESULT
from trainer.testing.temporal import TABLE

NUM_CLASSES = 8  # camera motions
CLIPS = 32  # with labels, per class
VIDEOS = "raw/camera-motion.json"  # describes the videos, with their seed
SECONDS = "seconds.json"  # of the steps by title, those of interrupted attempts included
INTERRUPT_S = 30.0  # time that a command has to end after Ctrl-C or SIGTERM
STARTS = {"from scratch": "scratch", "from bevt-nano": "pretrained"}  # title of the row -> in the names of runs


@dataclass(frozen=True)
class Step:
    """One command, and the file that exists once it is done."""

    title: str
    command: str  # the arguments of `bevt`, as typed in a shell
    product: Path


def demo_steps(out: Path, seed: int) -> list[Step]:
    """Return the commands of the demo, in order."""
    o = shlex.quote(str(out))
    tokenize = "tokenize --dataset folder"
    trained = f"--nproc 2 --set loop.seed={seed}"
    labelled = f"--frames {o}/train/frames --val-root {o}/raw/test --set loop.epochs=32 --set validate_every_epochs=8"
    rows = [
        (
            "Make videos: a virtual camera moves over photographs, and its motion is the class",
            f"demo-videos {o}/raw --clips {CLIPS} --seed {seed}",
            VIDEOS,
        ),
        (
            "Store and tokenize pictures",
            f"{tokenize} --recipe nano_image --root {o}/raw/images --out {o}/images",
            "images/tokens/dvae-v2/dataset.json",
        ),
        (
            "Store and tokenize videos without labels",
            f"{tokenize} --recipe nano_video --root {o}/raw/unlabelled --out {o}/videos",
            "videos/tokens/dvae-v2/dataset.json",
        ),
        (
            "Store the few videos with labels",
            f"{tokenize} --recipe nano_video --root {o}/raw/train --out {o}/train --frames-only",
            "train/frames/dataset.json",
        ),
        (
            "Continue the joint pretraining of bevt-nano on them",
            f"train joint --recipe nano_joint --init bevt-nano {trained} --image-tokens {o}/images/tokens/dvae-v2 "
            f"--video-tokens {o}/videos/tokens/dvae-v2 --set optim.lr=5e-4 --set loop.epochs=4 --out {o}/runs/joint",
            "runs/joint/weights.safetensors",
        ),
    ]
    for title, name in STARTS.items():
        init = f"--init {o}/runs/joint" if name == "pretrained" else "--set init=null"
        rows += [
            (
                f"Fine-tune on few labels, {title}",
                f"finetune folder --recipe nano_finetune {init} {trained} {labelled} --out {o}/runs/finetune-{name}",
                f"runs/finetune-{name}/weights.safetensors",
            ),
            (
                f"Test on other photographs, {title}: frames in order, one of them, shuffled",
                f"analyse temporal {o}/runs/finetune-{name} --root {o}/raw/test --out {o}/runs/temporal-{name}",
                f"runs/temporal-{name}/temporal.png",
            ),
        ]
    return [Step(title, command, out / product) for title, command, product in rows]


def _run(command: list[str]) -> int:
    """Run a command and return its exit status. It gets SIGTERM and Ctrl-C too, and then has INTERRUPT_S to end."""
    with subprocess.Popen(command) as process, _passing_on_sigterm(process):
        try:
            return process.wait()
        except (KeyboardInterrupt, SystemExit):
            try:
                process.wait(INTERRUPT_S)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise


@contextlib.contextmanager
def _passing_on_sigterm(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let SIGTERM end the process, which would otherwise continue alone, and raise SystemExit in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have handlers
        return

    def end(signum: int, frame: object) -> None:
        process.terminate()
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@writes(lambda out, **_: out, "bevt demo")
def demo(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run the steps that are not done yet, then write `report.html`. Return accuracies and the total seconds.

    Raises UserError naming the command that failed, and if `out` has the videos of another demo.
    """
    _check_videos(out / VIDEOS, {"seed": seed, "train_clips_per_class": CLIPS})
    steps = demo_steps(out, seed)
    seconds: dict[str, float] = read_json_file(out / SECONDS, dict) if (out / SECONDS).is_file() else {}
    for number, step in enumerate(steps, start=1):
        show(f"\n[{number}/{len(steps)}] {step.title}\n$ bevt {one_line(step.command)}")
        if step.product.is_file():
            show("already done")
            continue
        words = shlex.split(step.command)
        if words[0] in ("train", "finetune") and (step.product.parent / RECORD).is_file():
            words.append("--resume")  # stopped by an earlier Ctrl-C
        began = time.monotonic()
        try:
            code = _run([sys.executable, "-m", "cli", *words])
        finally:
            seconds[step.title] = round(seconds.get(step.title, 0.0) + time.monotonic() - began, 1)
            write_atomic(out / SECONDS, json_text(seconds).encode())
        if code != 0 or not step.product.is_file():
            raise UserError(
                f"`bevt {step.command}` ended with exit code {code}, expected 0 and {step.product}; fix the "
                "cause and run `bevt demo` again"
            )
    top1 = {title: _top1(out / "runs" / f"temporal-{name}" / TABLE) for title, name in STARTS.items()}
    steps_done = [(step.title, f"bevt {step.command}", seconds.get(step.title)) for step in steps]
    labelled = FrameStore(out / "train" / "frames").manifest.num_samples
    tested = read_json_file(out / "runs" / "temporal-scratch" / "normal" / RESULT, dict)["num_videos"]
    report = write_report(out, steps_done, Accuracies(top1, NUM_CLASSES, labelled, tested))
    show(f"\n{'top-1, frames given':<20}" + "".join(f"{temporal:>14}" for temporal in ORDERS))
    for title, row in top1.items():
        show(f"{title:<20}" + "".join(f"{row[temporal]:>14.1%}" for temporal in ORDERS))
    show(f"chance: {1 / NUM_CLASSES:.1%}")
    return {
        "top1": {name: top1[title] for title, name in STARTS.items()},
        "chance": 1 / NUM_CLASSES,
        "seconds": round(sum(seconds.values()), 1),
        "report": str(report),
    }


def _check_videos(path: Path, wanted: dict[str, int]) -> None:
    """Raise UserError if the videos that `path` describes were made with other numbers."""
    made = read_json_file(path, dict) if path.is_file() else wanted
    for name, value in wanted.items():
        if made.get(name) != value:
            raise UserError(f"{path}: videos with {name} {made.get(name)}, wanted {value}; give another `out`")


def _top1(table: Path) -> dict[str, float]:
    """Read top-1 by order of the frames from the table of `bevt analyse temporal`."""
    with table.open(newline="") as file:
        return {row["frames"]: float(row["top1"]) for row in csv.DictReader(file)}
