"""The pipeline's job in this process, part after part, without Ray: for faults at each of its calls to the disk."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.check import repair
from pipeline.cluster.session import Session
from pipeline.growth import extend
from pipeline.job import decode_part as frames_job
from pipeline.job import run as job
from pipeline.job.rows import PartMade, PartToMake
from pipeline.job.stages import TokenizePart, WorkerSettings, decode_part


@contextmanager
def without_ray() -> Iterator[None]:
    """In the block `tokenize`, `extend` and `repair` do the work of Ray's workers, and of their decoders."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (job, repair, extend):
            patch.setattr(module, "ray_session", _no_session)
        for module in (job, repair):
            patch.setattr(module, "cluster_amount", lambda resource: 0)
        patch.setattr(job.ActorPool, "sized", lambda *args: "tokenize")
        patch.setattr(job, "run_parts", _run_parts)
        patch.setattr(frames_job, "_isolated_loader", lambda decoder: _load_here)
        yield


@contextmanager
def _no_session(*args: object) -> Iterator[Session]:
    yield Session(may_grow=False)


def _load_here(*args: Any, limit_s: float) -> Any:
    return frames_job.load_source(*args)


def _run_parts(settings: WorkerSettings, todo: Sequence[PartToMake], pool: object) -> Iterator[PartMade]:
    tokenizer = None if pool is None else TokenizePart(settings, gpus=0, threads=1)
    for part in todo:
        made = PartMade.from_row(decode_part(part.to_row(), settings))
        if tokenizer is not None:
            made = PartMade.from_batch(tokenizer(made.to_batch()))
        made.raise_error()
        yield made
