"""Whether joint pretraining brings accuracy: clips of camera motion, fine-tuned from it and from scratch.

`evidence.sh` calls the parts in order: `prepare`, `pretrain`, `finetune SEED` for all seeds at once, `summary`.
The number of fine-tuning steps is the same for every share of the labels. Test clips are of other photographs.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RECIPES, Options, Result, joint_recipe, machine
from made_shards import motion_clip, motion_shards, write_frames
from table import markdown

from bevt_core.rng import rng_for
from pipeline.synthetic.camera import CLASSES
from schemas.frames import SourceItem
from schemas.recipes.loading import load_recipe
from schemas.text.json_text import json_text
from trainer.clips.sources import StoreClips
from trainer.finetune.stage import finetune
from trainer.pretrain.stage import pretrain

SHARES = (0.01, 0.1, 1.0)  # of the labels
STARTS = ("pretrained", "scratch")


@dataclass(frozen=True)
class Study:
    """How much of everything."""

    clips: int
    test_clips: int
    images: int
    pretrain_steps: int
    finetune_steps: int
    batch: int


FULL = Study(clips=4096, test_clips=768, images=1024, pretrain_steps=3000, finetune_steps=800, batch=32)
TINY = Study(clips=64, test_clips=16, images=16, pretrain_steps=4, finetune_steps=3, batch=8)


def prepare(options: Options, study: Study) -> None:
    motion_shards(options, options.work / "motion", study.clips, study.images)
    write_frames(
        options.work / "test" / "frames",
        functools.partial(motion_clip, "test"),
        count=study.test_clips,
        kind="video",
        per_part=64,
        classes=CLASSES,
    )


def pretrain_jointly(options: Options, study: Study) -> None:
    on_gpu = options.device.type == "cuda"
    overrides = motion_shards(options, options.work / "motion", study.clips, study.images)
    overrides += [f"streams.{stream}.global_batch={study.batch}" for stream in ("video", "image")]
    overrides += [f"loop.epochs={study.pretrain_steps * study.batch / study.clips}", "loop.checkpoint_every=100000"]
    overrides += [f"loop.precision={'bf16' if on_gpu else 'fp32'}", f"loop.num_workers={8 if on_gpu else 0}"]
    pretrain(joint_recipe(*overrides, "optim.warmup_epochs=0.5", name="nano_joint"), options.work / "joint")


def finetune_all(options: Options, study: Study, seed: int) -> None:
    """Fine-tune at every share of the labels, from both starts; a row for each."""
    result = Result(f"evidence_{seed}", options)
    train, test = StoreClips(options.work / "motion" / "video" / "frames"), StoreClips(options.work / "test" / "frames")
    on_gpu = options.device.type == "cuda"
    for share in SHARES:
        chosen = labelled(train.items, share, seed)
        batch = min(study.batch, len(chosen))
        for start in STARTS:
            overrides = [f"init={options.work / 'joint' if start == 'pretrained' else 'null'}", f"loop.seed={seed}"]
            overrides += [f"loop.epochs={study.finetune_steps / (len(chosen) // batch)}", f"global_batch={batch}"]
            overrides += ["validate_every_epochs=1000000", "loop.checkpoint_every=100000", "loop.log_every=100"]
            overrides += [f"loop.precision={'bf16' if on_gpu else 'fp32'}", f"loop.num_workers={4 if on_gpu else 0}"]
            recipe = load_recipe("nano_finetune", RECIPES, overrides)
            run = options.work / f"finetune-{seed}-{share}-{start}"
            summary = finetune(recipe, train.subset(chosen), test, run)
            metrics = summary["metrics"]
            row = {"seed": seed, "share": share, "labels": len(chosen), "start": start, "steps": summary["step"]}
            result.add(row | {"top1": metrics["val_top1"], "last_loss": metrics["loss"]})
    result.end("ok")


def labelled(items: Sequence[SourceItem], share: float, seed: int) -> list[SourceItem]:
    """Choose a share of every class, at least one clip of it."""
    chosen: list[SourceItem] = []
    for label in range(len(CLASSES)):
        mine = [item for item in items if item.label == label]
        drawn = rng_for("labels", seed, label).permutation(len(mine))[: max(1, round(share * len(mine)))]
        chosen += [mine[i] for i in sorted(drawn)]
    return chosen


def summarise(options: Options, study: Study) -> None:
    """Write evidence.json and print its table."""
    rows: list[dict[str, Any]] = []
    for path in sorted((options.out / "steps").glob("evidence_*.json")):
        rows += json.loads(path.read_text())["rows"]
    content = {"machine": machine(options.device), "study": vars(study), "runs": rows, "summary": summary_of(rows)}
    (options.out / "evidence.json").write_text(json_text(content, indent=1) + "\n")
    print(evidence_table(content["summary"]))
    if not rows:
        sys.exit("no fine-tuning run has finished")


def summary_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation and range of top-1 over the seeds, for each share of labels and start."""
    summary = []
    for share in SHARES:
        for start in STARTS:
            mine = [row for row in rows if (row["share"], row["start"]) == (share, start)]
            top1 = [row["top1"] for row in mine]
            if top1:
                spread = {"std": statistics.stdev(top1) if len(top1) > 1 else None, "min": min(top1), "max": max(top1)}
                place = {"share": share, "labels": mine[0]["labels"], "start": start, "seeds": len(top1)}
                summary.append({**place, "mean": statistics.mean(top1), **spread})
    return summary


def evidence_table(summary: Sequence[Mapping[str, Any]]) -> str:
    head = ("labels", "start", "seeds", "top-1, mean", "standard deviation", "lowest", "highest")
    rows = []
    for row in summary:
        shown = [None if row[key] is None else f"{row[key]:.1%}" for key in ("mean", "std", "min", "max")]
        rows.append((f"{row['labels']} ({row['share']:.0%})", row["start"], row["seeds"], *shown))
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["prepare", "pretrain", "finetune", "summary"])
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    options = Options(torch.device(given.device), given.tiny, given.out, given.work)
    study = TINY if given.tiny else FULL
    if given.part == "finetune":
        finetune_all(options, study, given.seed)
    else:
        {"prepare": prepare, "pretrain": pretrain_jointly, "summary": summarise}[given.part](options, study)


if __name__ == "__main__":
    main()
