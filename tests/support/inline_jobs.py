"""The pipeline's job in this process, part after part, without Ray: for faults at each of its calls to the disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.check import repair
from pipeline.cluster.session import Session
from pipeline.job import decode_part as frames_job
from pipeline.job import run as job
from pipeline.job.run import ERRORS, TokenizePart, Workplace, decode_part


@contextmanager
def without_ray() -> Iterator[None]:
    """In the block `tokenize` and `repair` do the work of Ray's workers, and of their decoders, themselves."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (job, repair):
            patch.setattr(module, "ray_session", _no_session)
            patch.setattr(module, "cluster_has", lambda resource: 0)
        patch.setattr(job.ActorPool, "sized", lambda *args: "tokenize")
        patch.setattr(job, "_run", _run)
        patch.setattr(frames_job, "_isolated_loader", lambda: _load_here)
        yield


@contextmanager
def _no_session(*args: object) -> Iterator[Session]:
    yield Session(may_grow=False)


def _load_here(*args: Any, limit_s: float) -> Any:
    return frames_job.load_source(*args)


def _run(place: Workplace, todo: list[dict[str, Any]], pool: object) -> Iterator[dict[str, Any]]:
    tokenizer = None if pool is None else TokenizePart(place, gpus=0, threads=1)
    for row in todo:
        row = decode_part(row, place)
        if tokenizer is not None:
            batch = tokenizer({key: [value] for key, value in row.items()})
            row = {key: values[0] for key, values in batch.items()}
        if row["error"]:
            raise ERRORS[row["error"]](row["message"])
        yield row
