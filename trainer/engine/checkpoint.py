"""Checkpoints: atomically written folders, `checkpoints/step-00000100/`, with a digest for every file.

    weights.safetensors    the model's parameters and buffers
    training.pt            optimizer and gradient scaler, loaded with weights_only=True
    checkpoint.json        the record below

Iterator and generator states are not stored: data and dropout are functions of (seed, step, rank), so weights,
optimizer and step are enough to continue a run bit for bit. The number of processes may change.
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
from bevt_core.weights.checkpoint_files import UNREADABLE, first_line
from schemas.base import Record
from schemas.errors import UserError
from schemas.text.plain import short

Identity = dict[str, str | int | float | bool | None]
LogLine = dict[str, float | None]  # a step's logged values; NaN and infinity are None

CHECKPOINTS = "checkpoints"  # below the run directory
WEIGHTS, TRAINING, RECORD = "weights.safetensors", "training.pt", "checkpoint.json"


class CheckpointRecord(Record):
    """The step, identity and file digests of a checkpoint. It is complete if all files exist and match."""

    format_version: Literal[1] = 1
    step: int = Field(ge=0, le=10**12)  # completed optimizer steps, and so the index (from 0) of the next step
    bad_steps: int = Field(ge=0, le=10**6)  # consecutive skipped steps, up to this one
    identity: Identity  # everything that affects the results: dotted recipe keys, dataset digests
    line: LogLine | None = None  # the last step's log line, if evaluations were due: it is written only after them
    files: dict[str, str]  # sha256 by name


class Checkpoints:
    """The checkpoints of one run. Only rank 0 saves; every rank reads.

    The newest `keep` are kept; those whose step is a multiple of `keep_every` are never removed.
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
        """Write the checkpoint of `step` atomically, then remove those that need not be kept.

        `weights` is the result of `state_of`. `line` is the log line of the last step, if evaluations are due after it.
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
        """Return the newest complete checkpoint, or None; call `warn` for each incomplete one that is skipped."""
        if self.folder.is_dir():
            clean_staging(self.folder)
        for path in reversed(self.paths()):
            fault = fault_of(path)
            if fault is None:
                return path
            warn(f"{path}: skipped, {fault}; trying the previous checkpoint")
        return None

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def fault_of(path: Path) -> str | None:
    """Return why a checkpoint is incomplete or damaged, or None if all its files match their digests."""
    try:
        record = read_record(path / RECORD, CheckpointRecord)
    except UserError as error:
        return str(error)
    if record is None:
        return f"{RECORD} is missing"
    if record.files.keys() != {WEIGHTS, TRAINING}:
        return f"{RECORD} lists other files than {WEIGHTS} and {TRAINING}"
    for name, sha256 in record.files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_of(path / name) != sha256:
            return f"{name} is truncated or changed (its sha256 differs from the record's)"
    return None


def read_checkpoint(
    path: Path, model: nn.Module, check: Callable[[Identity], None]
) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Load the weights into `model` after `check` accepts the identity; return the record and the training state.

    Raises UserError if the training state cannot be read, and whatever `check` raises.
    """
    record = read_record(path / RECORD, CheckpointRecord)
    assert record is not None, path
    check(record.identity)
    load_model(model, str(path / WEIGHTS))
    try:
        return record, torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path / TRAINING}: not the training state of a run ({first_line(error)})") from None


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state; a tensor with several names appears under the first one, as `load_model` expects."""
    firsts = {name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers())}
    return {key: tensor for key, tensor in model.state_dict().items() if key in firsts}


def _finite(line: Mapping[str, float] | None) -> LogLine | None:
    if line is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def _pickled(training: Mapping[str, Any]) -> bytes:
    """Serialize to memory, because torch.save to a file reports a full disk as an internal error."""
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    return buffer.getvalue()


def check_identity(path: Path, saved: Identity, now: Identity) -> None:
    """Raise UserError if `saved` and `now` differ, naming both values of every key that does."""
    changed = [
        f"{key}: {short(saved.get(key))!r} in the checkpoint, {short(now.get(key))!r} now"
        for key in sorted(saved.keys() | now.keys())
        if saved.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{path} belongs to another run: {'; '.join(changed)}. "
            "Restore the checkpoint's values to resume it, or start a new run in another `out`"
        )
