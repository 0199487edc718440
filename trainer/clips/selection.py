"""Find the labelled clips that a command's options select: files of a supported data set, or a frame store.

The pipeline's functions list the files of each data set; `cli.py` passes them in `PipelineSources`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bevt_core.console.terminal import note, warn
from bevt_core.dataset.source_list import SourceTable, labels_of
from bevt_core.storage.objects import AnyPath, as_path
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem
from schemas.recipes import DECODE_TIMEOUT_S
from trainer.clips.lists import held_out_clips
from trainer.clips.sources import ClipSource, FileClips, StoreClips, check_labels
from trainer.clips.split import share_of_labels, split_items

HELD_OUT = "val"  # the split of a run's held-out clips
FOLDER = "folder"  # the default for `dataset`


class Listing(Protocol):
    """The files of a split, with their classes."""

    @property
    def items(self) -> Sequence[SourceItem]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def ignored_note(self) -> str: ...
    @property
    def warnings(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class PipelineSources:
    """Functions of `pipeline.sources` that list the files of data sets; the trainer does not import them."""

    list_sources: Callable[[str, AnyPath, str, str | AnyPath | None, bool], Listing]
    check_found: Callable[[Any, AnyPath, str | AnyPath | None], None]
    label_by: Callable[[Any, tuple[str, ...], str, str], Listing]
    separates_split: Callable[[str, AnyPath, str, bool], bool]
    has_split: Callable[[str, AnyPath, str, bool], bool]
    split_to_test: Callable[[str], str]
    choose_stored: Callable[[AnyPath, FrameStoreManifest, Sequence[SourceItem], AnyPath], list[SourceItem]]


class ClipSelection(NamedTuple):
    """The clips that a command's options select; `prefix` begins the options' names, as in val_root."""

    root: Path | None = None
    frames: str | None = None
    list_file: str | None = None
    split: str | None = None
    prefix: str = ""

    @property
    def is_given(self) -> bool:
        return self != ClipSelection(prefix=self.prefix)


class Reading(NamedTuple):
    """How video files are found and read."""

    allow_outside: bool
    decode_timeout_s: float | None  # None: the default


def clips_to_test(
    sources: PipelineSources,
    dataset: str | None,
    selection: ClipSelection,
    reading: Reading,
    classes: tuple[str, ...] = (),
    classes_from: str = "",
    run: Path | None = None,
) -> ClipSource:
    """Return labelled clips of a frame store or of files, by default those of the test split.

    Files without a class map get the labels of `classes`, if given, by class name. The split `val` is the clips that
    `run` held out, unless `selection.root` has a split of that name. Raises UserError for options that contradict each
    other.
    """
    check_dataset(dataset, selection)
    if run is not None and _is_held_out(sources, dataset or FOLDER, selection, reading):
        return held_out_clips(
            run, selection.root, selection.frames, classes, reading.decode_timeout_s, reading.allow_outside
        )
    if selection.frames is not None and selection.split is not None:
        raise UserError(
            f"`split` {selection.split} chooses among files, and `frames` names a frame store; drop one of them"
        )
    clips = _clips(sources, dataset or FOLDER, selection, reading, classes, classes_from)
    if selection.split is not None and selection.list_file is None:
        _check_split(sources, dataset or FOLDER, selection, selection.split, reading)
    return clips


def _is_held_out(sources: PipelineSources, dataset: str, selection: ClipSelection, reading: Reading) -> bool:
    """Whether `selection` means a run's held-out clips, rather than a root's own split `val`."""
    if selection.split != HELD_OUT or selection.list_file is not None:
        return False
    return selection.root is None or not sources.separates_split(
        dataset, selection.root, HELD_OUT, reading.allow_outside
    )


def check_dataset(dataset: str | None, *selections: ClipSelection) -> None:
    """Raise UserError if `dataset`, which says how files are read, is given without files."""
    given = [selection for selection in selections if selection.is_given]
    if dataset is not None and given and all(selection.frames is not None for selection in given):
        raise UserError(
            f"`dataset` {dataset} says how files are read, and `frames` names a frame store; drop one of them"
        )


def train_and_val(
    sources: PipelineSources,
    dataset: str,
    train: ClipSelection,
    val: ClipSelection,
    val_share: float,
    label_share: float,
    seed: int,
    reading: Reading,
) -> tuple[ClipSource, ClipSource]:
    """Return labelled clips to train on and to validate on.

    Validation clips are those of `val`; else those of the test split in the root of `train`; else `val_share` of every
    class, which is reported on stderr. Of the others, `label_share` of every class is trained on. Warns if all clips to
    train on are of one class. Raises UserError for a share that leaves nothing.
    """
    if not 0 < label_share <= 1:
        raise UserError(f"`label_share` {label_share:g}: expected a share above 0 and at most 1")
    to_train, to_validate = _both(sources, dataset, train, val, val_share, seed, reading)
    if label_share == 1:
        return to_train, to_validate
    check_labels(to_train)
    chosen = to_train.subset(share_of_labels(to_train.items, label_share, seed))
    note(f"{to_train.path}: {len(chosen.items)} of {len(to_train.items)} videos are trained on (label_share)")
    return chosen, to_validate


def _both(
    sources: PipelineSources,
    dataset: str,
    train: ClipSelection,
    val: ClipSelection,
    val_share: float,
    seed: int,
    reading: Reading,
) -> tuple[ClipSource, ClipSource]:
    """The clips of `train_and_val` before `label_share`."""
    if not 0 < val_share < 1:
        raise UserError(f"`val_share` {val_share:g}: expected a share above 0 and below 1")
    if dataset == "list" and val.root is not None and val.list_file is None:
        raise UserError(f"`val_root` {val.root}: dataset list needs `val_list` as well")
    to_train = _clips(sources, dataset, train._replace(split="train"), reading)
    labels = set(labels_of(to_train.items).unique().to_pylist())
    if len(labels) == 1 and None not in labels:
        warn(
            f"{to_train.path}: all clips to train on are of one class, so there is nothing to learn; expected a folder "
            "per class, or a list with several labels"
        )
    if val.is_given and val.root is None and val.frames is None:
        val = val._replace(root=train.root, frames=train.frames)  # another list of the same root or store
    if val.is_given:
        return to_train, _clips(sources, dataset, val, reading, to_train.classes, to_train.path)
    split = sources.split_to_test(dataset)
    if train.frames is None and train.list_file is None:
        assert train.root is not None  # otherwise `_clips` has raised
        if all(sources.has_split(dataset, train.root, name, reading.allow_outside) for name in ("train", split)):
            apart = ClipSelection(root=train.root, split=split)
            return to_train, _clips(sources, dataset, apart, reading, to_train.classes, to_train.path)
    check_labels(to_train)
    train_items, val_items = split_items(to_train.items, val_share, seed, to_train.classes)
    note(
        f"{to_train.path}: {len(val_items)} of {len(to_train.items)} videos held out for validation ({val_share:g} of "
        "every class, at least one); to choose others: --val-root, --val-frames, --val-list"
    )
    return to_train.subset(train_items), to_train.subset(val_items)


def _check_split(
    sources: PipelineSources, dataset: str, selection: ClipSelection, split: str, reading: Reading
) -> None:
    """Raise UserError for a split that the root does not have; otherwise all of its files would be used."""
    assert selection.root is not None  # otherwise `_clips` has raised
    if not sources.has_split(dataset, selection.root, split, reading.allow_outside):
        raise UserError(
            f"`split` {split}: no such folder in `root` {selection.root}, and no official list; leave `split` out"
        )


def _clips(
    sources: PipelineSources,
    dataset: str,
    selection: ClipSelection,
    reading: Reading,
    classes: tuple[str, ...] = (),
    classes_from: str = "",
) -> ClipSource:
    """The clips of one selection."""
    with _options_named(selection):
        if selection.frames is not None:
            return _stored(sources, selection, selection.frames)
        if selection.root is None:
            raise UserError("no data: give the folder of the files as `root`, or a frame store as `frames`")
        return _files(sources, dataset, selection, selection.root, reading, classes, classes_from)


@contextlib.contextmanager
def _options_named(selection: ClipSelection) -> Iterator[None]:
    """Errors of the block that name `root`, `frames` or `list_file` get the selection's names, such as `val_root`."""
    try:
        yield
    except UserError as error:
        if selection.prefix:
            error.args = (re.sub(r"`(root|frames|list)(_file)?`", rf"`{selection.prefix}\1`", str(error)),)
        raise


def _files(
    sources: PipelineSources,
    dataset: str,
    selection: ClipSelection,
    root: Path,
    reading: Reading,
    classes: tuple[str, ...],
    classes_from: str,
) -> ClipSource:
    """The clips of a folder of files."""
    split = selection.split or sources.split_to_test(dataset)
    listing = sources.list_sources(dataset, root, split, selection.list_file, reading.allow_outside)
    sources.check_found(listing, root, selection.list_file)
    for odd in listing.warnings:
        warn(odd)
    if listing.ignored_note:
        note(f"{root}: {listing.ignored_note}")
    if classes:
        listing = sources.label_by(listing, classes, str(selection.list_file or root), classes_from)
    limit_s = reading.decode_timeout_s or DECODE_TIMEOUT_S
    return FileClips(root, SourceTable.of(listing.items), listing.classes, limit_s)


def _stored(sources: PipelineSources, selection: ClipSelection, frames: str) -> ClipSource:
    """The clips of a frame store, or only those of its list file."""
    if selection.root is not None:
        raise UserError(
            f"`root` {selection.root} and `frames` {frames}: clips come from files or from a frame store; "
            "drop one of them"
        )
    source = StoreClips(as_path(frames))
    if selection.list_file is None:
        return source
    return source.subset(
        sources.choose_stored(source.folder, source.store.manifest, source.items, as_path(selection.list_file))
    )
