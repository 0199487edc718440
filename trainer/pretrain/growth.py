"""Going on with data sets that were extended (`bevt extend`) after the run had started.

A run reads the same samples through an epoch. So the epoch that was running when the run stopped ends with the samples
with which it began, and the next one reads all. `run.json` records where that was, once; from then on the order of
samples is a function of it, whatever checkpoint the run resumes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bevt_core.console.terminal import note, warn
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import read_record, write_record
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.runs import Growth, RunRecord
from trainer.data.clip_dataset import part_weights
from trainer.data.order import StreamOrder
from trainer.engine.checkpoint import CHECKPOINTS, Checkpoints, Identity
from trainer.pretrain.streams import Source, datasets_of

Grown = dict[str, tuple[Growth, ...]]  # by the keys of `datasets_of`


@dataclass(frozen=True)
class RunGrowth:
    """The extensions that a run went on with."""

    grown: Grown
    is_new: bool = False  # at this resume; `run.json` does not have them yet

    @property
    def identity(self) -> Identity:
        """The keys that they add to the run's identity."""
        return {f"grown.{name}": _text(history) for name, history in self.grown.items()}

    def carried(self, saved: Identity) -> Identity:
        """The identity of a checkpoint, with what the run went on with after it."""
        now = dict(saved)
        for name, history in self.grown.items():
            for number, growth in enumerate(history):
                is_before = now.get(f"grown.{name}") == (_text(history[:number]) if number else None)
                if is_before and now.get(f"data.{name}") == growth.before:
                    now |= {f"data.{name}": growth.after, f"grown.{name}": _text(history[: number + 1])}
        return now


def growth_of(recipe: PretrainRecipe, sources: Mapping[str, Source], out: Path, resume: bool, grown: bool) -> RunGrowth:
    """Return the extensions that the run in `out` went on with, and with `grown` those of now.

    Raises UserError without `grown` if a data set was extended since. Data that differ in another way are left to the
    check of the checkpoint's identity.
    """
    record = read_record(out / RECORD, RunRecord) if resume else None
    if record is None:
        return RunGrowth({})
    history: Grown = dict(record.grown)
    is_new = False
    for name, ref in datasets_of(sources).items():
        stream = name.partition(".")[0]
        first = record.datasets.get(name)
        so_far = history.get(name, ())
        before = so_far[-1].after if so_far else None if first is None else first.digest
        num_parts = sources[stream].generations.get(before or "")
        if before is None or before == ref.digest or num_parts is None:
            continue
        if not grown:
            now = sources[stream].frames.manifest.num_parts
            raise UserError(
                f"{out}: its {name} data {ref.path} were extended from {num_parts} to {now} parts (digest "
                f"{before[:12]}, now {ref.digest[:12]}); give `grown` to go on with all of them from the next epoch"
            )
        first_epoch = _next_epoch(recipe, sources[stream], stream, num_parts, so_far, out)
        history[name] = (
            *so_far,
            Growth(first_epoch=first_epoch, num_parts=num_parts, before=before, after=ref.digest),
        )
        note(f"{name}: epochs from {first_epoch} on read all parts of {ref.path}, earlier ones the first {num_parts}")
        is_new = True
    if grown and not is_new:
        note(f"{out}: no data set was extended since the run read it, so `grown` has no effect")
    return RunGrowth(history, is_new)


def record_growth(out: Path, growth: RunGrowth, total_steps: int) -> None:
    """Write new extensions, and the schedule that they give, into `run.json`."""
    record = read_record(out / RECORD, RunRecord)
    if growth.is_new and record is not None:
        write_record(out / RECORD, record.model_copy(update={"grown": growth.grown, "total_steps": total_steps}))


def _next_epoch(
    recipe: PretrainRecipe, source: Source, stream: str, num_parts: int, so_far: tuple[Growth, ...], out: Path
) -> int:
    """The first epoch of a stream that has not begun at the newest checkpoint."""
    newest = Checkpoints(out / CHECKPOINTS, recipe.loop.keep_checkpoints).newest(warn)
    step = 0 if newest is None else int(newest.name.removeprefix("step-"))
    config = recipe.streams[stream]  # type: ignore[index]
    sizes = np.bincount(source.frames.samples["part"].to_numpy(), minlength=num_parts)[:num_parts].astype(np.int64)
    growth = tuple((each.first_epoch, each.num_parts) for each in so_far)
    weights = part_weights(source.frames)
    order = StreamOrder(
        sizes,
        config.global_batch,
        config.window_parts,
        (recipe.loop.seed, stream),
        growth=growth,
        weights=None if weights is None else weights[:num_parts],
    )
    epoch, at = order.position(step)
    return epoch + (at > 0)


def _text(history: tuple[Growth, ...]) -> str:
    return ", ".join(f"{growth.num_parts} parts before epoch {growth.first_epoch}" for growth in history)
