"""Check the clips of a fine-tuning run before it starts: missing clips, overlap of training and validation, resumes."""

import os
from pathlib import Path

import pyarrow.compute as pc

from bevt_core.console.terminal import warn
from schemas.errors import UserError
from trainer.clips.lists import CLIPS, ClipLists, Digests, clip_rows, digests_of, make_lists, read_lists
from trainer.clips.overlap import overlap_text, overlap_with
from trainer.clips.sources import ClipSource
from trainer.distributed.world import World


def clips_of_run(train: ClipSource, val: ClipSource, init: str | None, out: Path, world: World) -> ClipLists | None:
    """Return, on rank 0, the lists of training and validation clips of the run in `out`. Every rank calls this.

    Warns of missing clips and of validation clips that are trained on. Raises UserError if all clips of a list are
    missing.
    """
    (train_digests, val_digests) = (digests_of(source, world) for source in (train, val))
    check_missing(train, train_digests, "train on", world)
    check_missing(val, val_digests, "validate on", world)
    if not world.is_main:
        return None
    lists = make_lists([clip_rows(train, "train", train_digests), clip_rows(val, "val", val_digests)], init)
    overlap = overlap_with(lists, "train", val, val_digests, out)
    if overlap["count"]:
        warn(
            f"{overlap_text(overlap, 'validation')} are trained on, so val_top1 is not a test result and is "
            "omitted from reports and model cards; choose other clips with --val-root, --val-frames or --val-list"
        )
    return lists._replace(val_trained_on=overlap["count"])


def check_missing(data: ClipSource, digests: Digests, purpose: str, world: World) -> None:
    """Warn, on rank 0, of missing clips. Raises UserError if all are missing."""
    missing = [item.source for item, digest in zip(data.items, digests, strict=True) if digest is None]
    if len(missing) == len(data.items):
        raise UserError(
            f"{data.path}: none of the {len(missing)} clips to {purpose} exists, e.g. {missing[0]}; give the root "
            "that the names in the list are relative to, or mount it"
        )
    if missing and world.is_main:
        number = f"{len(missing)} of {len(data.items)}"
        warn(f"{data.path}: {number} clips to {purpose} are missing, e.g. {missing[0]}")


def check_listed(run: Path, train: ClipSource, val: ClipSource) -> None:
    """Raise UserError if `run`, which has a list of clips, was started with other clips or classes."""
    lists = read_lists(run)
    assert lists is not None, run
    own = lists.table.filter(pc.and_(pc.equal(lists.table["run"], ""), pc.not_equal(lists.table["use"], "pretrain")))
    then = set(zip(*(own[name].to_pylist() for name in ("use", "source", "label")), strict=True))
    now = {
        (use, os.fsencode(item.source), item.label)
        for use, data in (("train", train), ("val", val))
        for item in data.items
    }
    if then != now:
        use, source, _ = min(then ^ now, key=lambda clip: clip[:2])
        raise UserError(
            f"{run} was started with other clips or classes: {len(then - now)} of those in its {CLIPS} are no longer "
            f"given and {len(now - then)} are new, e.g. {os.fsdecode(source)} ({use}); give the same, or another `out`"
        )
