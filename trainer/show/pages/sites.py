"""Decide what a path is that `bevt view` is to show: a run or an evaluation, or neither."""

from pathlib import Path

from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.objects import AnyPath
from bevt_core.viewer.site import Site
from schemas.errors import UserError
from trainer.show.pages.evaluation import EvaluationPages
from trainer.show.pages.opened import OpenEvaluation
from trainer.show.pages.run import RunPages
from trainer.testing.evaluate import PLAN


def run_site(path: AnyPath, *, tokenizer: str | None = None, clips: str | None = None) -> Site | None:
    """The site of the run in directory `path`; None if it is none. A run's pages take neither option."""
    if not (isinstance(path, Path) and (path / RECORD).is_file()):
        return None
    if clips is not None:
        raise UserError(f"{path} is a run; leave out `clips`, which are those of an evaluation")
    _check_no_tokenizer(path, tokenizer)
    return RunPages(path).site()


def evaluation_site(path: AnyPath, *, tokenizer: str | None = None, clips: str | None = None) -> Site | None:
    """The site of the evaluation in folder `path`; None if it is none.

    `clips` is the frame store or the root of the files that were evaluated; without it, clips are listed by name.
    """
    if not (isinstance(path, Path) and (path / PLAN).is_file()):
        return None
    _check_no_tokenizer(path, tokenizer)
    return EvaluationPages(OpenEvaluation(path, clips)).site()


def _check_no_tokenizer(path: Path, tokenizer: str | None) -> None:
    if tokenizer is not None:
        raise UserError(f"{path} is no dataset; leave out `tokenizer`")
