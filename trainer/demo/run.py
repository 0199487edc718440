"""`bevt demo`: the commands of a user one after another, on generated videos."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.console.inert import one_line
from bevt_core.console.terminal import show
from bevt_core.storage.files import read_json_file
from bevt_core.storage.one_writer import writes
from schemas.errors import UserError
from trainer.demo.report import write_report

NUM_CLASSES = 8  # directions of camera motion; chance is 12.5 %
TEMPORAL = ("normal", "single-frame", "shuffle")
INTERRUPT_S = 30.0  # time that a command has to end after Ctrl-C


@dataclass(frozen=True)
class Step:
    """One command, and the file that exists once it is done."""

    title: str
    command: str  # the arguments of `bevt`, as typed in a shell
    product: Path


def demo_steps(out: Path) -> list[Step]:
    """Return the commands of the demo, in order."""
    o = shlex.quote(str(out))
    tokenize = "tokenize --dataset folder"
    dvae = f"--tokenizer {o}/runs/dvae/tokenizer"
    tokens = f"--video-tokens {o}/train/tokens/dvae-v2 --image-tokens {o}/images/tokens/dvae-v2"
    data = f"--frames {o}/train/frames --val-root {o}/raw/test"
    rows = [
        (
            "Make labelled videos: a virtual camera moves over photographs",
            f"demo-videos {o}/raw",
            "raw/camera-motion.json",
        ),
        (
            "Store the photographs",
            f"{tokenize} --recipe nano_image --root {o}/raw/images --out {o}/images --frames-only",
            "images/frames/dataset.json",
        ),
        (
            "Train a small tokenizer on them",
            f"tokenizer train dvae --recipe nano_tokenizer --frames {o}/images/frames --out {o}/runs/dvae",
            "runs/dvae/tokenizer/tokenizer.json",
        ),
        (
            "Tokenize the photographs",
            f"{tokenize} --recipe nano_image --root {o}/raw/images --out {o}/images {dvae}",
            "images/tokens/dvae-v2/dataset.json",
        ),
        (
            "Store and tokenize the videos",
            f"{tokenize} --recipe nano_video --root {o}/raw/train --out {o}/train {dvae}",
            "train/tokens/dvae-v2/dataset.json",
        ),
        (
            "Pretrain the image stream (BEVT-I)",
            f"train image --recipe nano_image --nproc 2 --image-tokens {o}/images/tokens/dvae-v2 --out {o}/runs/image",
            "runs/image/weights.safetensors",
        ),
        (
            "Pretrain both streams jointly (BEVT)",
            f"train joint --recipe nano_joint --nproc 2 --init {o}/runs/image {tokens} --out {o}/runs/joint",
            "runs/joint/weights.safetensors",
        ),
        (
            "Fine-tune to recognise the motion",
            f"finetune folder --recipe nano_finetune --nproc 2 --init {o}/runs/joint {data} --out {o}/runs/finetune",
            "runs/finetune/weights.safetensors",
        ),
    ]
    for temporal in TEMPORAL:
        target = f"runs/evaluate-{temporal}"
        command = f"evaluate {o}/runs/finetune --root {o}/raw/test --temporal {temporal} --out {o}/{target}"
        rows.append((f"Evaluate on other photographs, frames {temporal}", command, f"{target}/evaluation.json"))
    return [Step(title, command, out / product) for title, command, product in rows]


def _run(command: list[str]) -> int:
    """Run a command and return its exit status. Ctrl-C reaches it too; it then has INTERRUPT_S seconds to end."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                process.wait(INTERRUPT_S)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise


@writes(lambda out: out, "bevt demo")
def demo(out: Path) -> dict[str, Any]:
    """Run the steps that are not done yet, then write `report.html`. Return accuracies and the total seconds.

    Raises UserError naming the command that failed.
    """
    seconds: dict[str, float] = {}
    steps = demo_steps(out)
    for number, step in enumerate(steps, start=1):
        show(f"\n[{number}/{len(steps)}] {step.title}\n$ bevt {one_line(step.command)}")
        if step.product.is_file():
            show("already done")
            continue
        began = time.monotonic()
        code = _run([sys.executable, "-m", "cli", *shlex.split(step.command)])
        if code != 0 or not step.product.is_file():
            raise UserError(
                f"`bevt {step.command}` ended with exit code {code}, expected 0 and {step.product}; fix the "
                "cause and run `bevt demo` again"
            )
        seconds[step.title] = round(time.monotonic() - began, 1)
    results = {
        temporal: read_json_file(out / "runs" / f"evaluate-{temporal}" / "evaluation.json", dict)
        for temporal in TEMPORAL
    }
    steps_done = [(f"bevt {step.command}", seconds.get(step.title)) for step in steps]
    report = write_report(out, steps_done, results)
    show(f"\n{'frames given to the classifier':<32}{'top-1':>8}   (chance {1 / NUM_CLASSES:.1%})")
    for temporal in TEMPORAL:
        show(f"{temporal:<32}{results[temporal]['top1']:>8.1%}")
    return {
        **{f"top1_{temporal.replace('-', '_')}": results[temporal]["top1"] for temporal in TEMPORAL},
        "chance": 1 / NUM_CLASSES,
        "seconds": round(sum(seconds.values()), 1),
        "report": str(report),
    }
