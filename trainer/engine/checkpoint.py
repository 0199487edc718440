"""Checkpoints: folders that appear whole, `checkpoints/step-00000100/`, with a digest for every file.

    weights.safetensors    the model's parameters and buffers
    training.pt            optimizer and gradient scaler, loaded with weights_only=True
    checkpoint.json        the record below

There is no iterator and no generator state: data and dropout are functions of (seed, step, rank), so (weights,
optimizer, step) continue a run to the bit. The number of processes is free to change.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_model
from safetensors.torch import save as serialize
from torch import Tensor, nn

from bevt_core.storage.files import clean_staging, read_record, remove, sha256_of, write_record
from bevt_core.storage.staging import staged_folder
from bevt_core.weights.files import UNREADABLE, first_line
from schemas.base import Record
from schemas.errors import UserError

Identity = dict[str, str | int | float | bool | None]
LogLine = dict[str, float | None]  # a step's values for the log; NaN and infinity are None

CHECKPOINTS = "checkpoints"  # below the run directory
WEIGHTS, TRAINING, RECORD = "weights.safetensors", "training.pt", "checkpoint.json"


class CheckpointRecord(Record):
    """What the files of a checkpoint belong to. Present and matching means complete."""

    format_version: Literal[1] = 1
    step: int = Field(ge=0, le=10**12)  # optimizer steps done; the next batch is that of this step, counted from 0
    bad_steps: int = Field(ge=0, le=10**6)  # in a row, up to here
    identity: Identity  # everything that decides the numbers: dotted recipe keys, dataset digests
    line: LogLine | None = None  # of the last step, where evaluations were to follow: the log has it after them
    files: dict[str, str]  # sha256 by name


class Checkpoints:
    """The checkpoints of one run. Only rank 0 saves; every rank reads.

    The newest `keep` are kept, and for ever those whose step is a multiple of `keep_every`.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int | None = None) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        training: Mapping[str, Any],
        identity: Identity,
        bad_steps: int = 0,
        line: Mapping[str, float] | None = None,
    ) -> Path:
        """Write the checkpoint of `step`, all at once, then remove those that need not be kept.

        `weights` are `state_of` a model. `line` is the log's of the last step, if it is to be evaluated yet.
        """
        target = self.path_of(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and fault_of(target) is not None:
            remove(target)
        if not target.exists():
            with staged_folder(target) as staging:
                (staging / WEIGHTS).write_bytes(serialize(dict(weights)))
                (staging / TRAINING).write_bytes(_pickled(training))
                files = {name: sha256_of(staging / name) for name in (WEIGHTS, TRAINING)}
                facts: dict[str, Any] = {"step": step, "bad_steps": bad_steps, "identity": identity, "files": files}
                write_record(staging / RECORD, CheckpointRecord(**facts, line=_finite(line)))
        for old in self.paths()[: -self.keep]:
            if self.keep_every is None or int(old.name.removeprefix("step-")) % self.keep_every:
                remove(old)
        return target

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """Return the newest complete checkpoint, or None where there is none; `warn` of each that had to be skipped."""
        if self.folder.is_dir():
            clean_staging(self.folder)
        for path in reversed(self.paths()):
            fault = fault_of(path)
            if fault is None:
                return path
            warn(f"{path}: skipped, {fault}; looking for the one before it")
        return None

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def fault_of(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when all its files have their digests."""
    try:
        record = read_record(path / RECORD, CheckpointRecord)
    except UserError as error:
        return str(error)
    if record is None:
        return f"no {RECORD}"
    if record.files.keys() != {WEIGHTS, TRAINING}:
        return f"{RECORD} has digests of other files than {WEIGHTS} and {TRAINING}"
    for name, sha256 in record.files.items():
        if not (path / name).is_file():
            return f"no {name}"
        if sha256_of(path / name) != sha256:
            return f"{name} is torn or changed (its sha256 differs from the record's)"
    return None


def read_checkpoint(
    path: Path, model: nn.Module, check: Callable[[Identity], None]
) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Load the weights into `model` once `check` accepts the identity; return the record and the training state."""
    record = read_record(path / RECORD, CheckpointRecord)
    assert record is not None, path
    check(record.identity)
    load_model(model, str(path / WEIGHTS))
    try:
        return record, torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path / TRAINING}: not a run's training state ({first_line(error)})") from None


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, a tensor that goes by several names under its first one, as `load_model` expects."""
    firsts = {name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers())}
    return {key: tensor for key, tensor in model.state_dict().items() if key in firsts}


def _finite(line: Mapping[str, float] | None) -> LogLine | None:
    if line is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def _pickled(training: Mapping[str, Any]) -> bytes:
    """torch.save to memory: written to a file by itself it reports a full disk as an internal error."""
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    return buffer.getvalue()


def check_identity(path: Path, saved: Identity, now: Identity) -> None:
    """Raise UserError, naming both values, for every key in which the run differs from the one that was saved."""
    changed = [
        f"{key}: {saved.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(saved.keys() | now.keys())
        if saved.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{path} belongs to another run: {'; '.join(changed)}. "
            "Give the values of then to resume it, or start a new run in another --out"
        )
