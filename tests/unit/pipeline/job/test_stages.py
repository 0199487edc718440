"""The Ray workers of a job."""

import logging
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bevt_core.console.terminal import OUR_PACKAGES
from pipeline.job import stages
from pipeline.job.stages import TokenizePart, decode_part, num_tasks
from schemas.errors import UserError


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No handlers, as a worker starts; what it sets is taken back."""
    for logger in map(logging.getLogger, OUR_PACKAGES):
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)


def _warns(*_: Any, **__: Any) -> None:
    logging.getLogger("bevt_core.storage").warning("no locks there")
    raise UserError("enough")


@pytest.mark.parametrize(
    "work",
    [
        lambda settings: decode_part({"part": 0, "items": "[]"}, settings),
        lambda settings: TokenizePart(settings, gpus=0, threads=1),
    ],
    ids=["decode_part", "TokenizePart"],
)
def test_a_workers_warning_has_its_prefix(
    work: Callable[[Any], object],
    new_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stages, "read_frame_commit", _warns)
    monkeypatch.setattr(TokenizePart, "_load", _warns)
    work(SimpleNamespace(frames_dir="frames", plans=[SimpleNamespace(digest=str, parts=range(1))]))
    assert capsys.readouterr().err == "warning: no locks there\n"


@pytest.mark.parametrize(
    ("parts", "cpus", "tasks"), [(8, 2, 8), (1000, 2, 1000), (20_000, 2, 1000), (20_000, 64, 4096), (9000, 1000, 9000)]
)
def test_many_parts_share_tasks(parts: int, cpus: int, tasks: int) -> None:
    assert num_tasks(parts, cpus) == tasks
