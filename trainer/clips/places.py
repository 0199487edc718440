"""Where the commands get labelled clips from: files of a data set that the pipeline knows, or a frame store.

What a data set's files are is the other half's to say: `Sources` is how it is asked, and `cli.py` brings both together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bevt_core.console.terminal import note, warn
from bevt_core.storage.objects import AnyPath, as_path
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem
from schemas.recipes import DECODE_TIMEOUT_S
from trainer.clips.lists import held_out
from trainer.clips.sources import ClipSource, FileClips, StoreClips, split_items

HELD_OUT = "val"  # the split that is what a run held out
FOLDER = "folder"  # how files are read where nothing else is said


class Listing(Protocol):
    """The files of a split."""

    @property
    def items(self) -> Sequence[SourceItem]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def ignored_note(self) -> str: ...
    @property
    def warnings(self) -> Sequence[str]: ...


class Sources(Protocol):
    """What the module `pipeline.sources` answers."""

    def list_sources(
        self, dataset: str, root: AnyPath, split: str, list_file: str | AnyPath | None, allow_outside: bool, /
    ) -> Listing: ...
    def check_found(self, listing: Any, root: AnyPath, list_file: str | AnyPath | None, /) -> None: ...
    def label_by(self, listing: Any, classes: tuple[str, ...], where: str, classes_from: str, /) -> Listing: ...
    def says_split(self, dataset: str, root: AnyPath, split: str, allow_outside: bool, /) -> bool: ...
    def has_split(self, dataset: str, root: AnyPath, split: str, allow_outside: bool, /) -> bool: ...
    def split_to_test(self, dataset: str, /) -> str: ...
    def choose_stored(
        self, folder: AnyPath, manifest: FrameStoreManifest, stored: Sequence[SourceItem], list_file: AnyPath, /
    ) -> list[SourceItem]: ...


class Place(NamedTuple):
    """What the options say of where clips are; `of` stands before the options' names, as in --val-root."""

    root: Path | None = None
    frames: str | None = None
    list_file: str | None = None
    split: str | None = None
    of: str = ""

    @property
    def is_given(self) -> bool:
        return self != Place(of=self.of)


class Reading(NamedTuple):
    """How video files are found and read."""

    allow_outside: bool
    decode_timeout_s: float | None  # None: the default


def clips_to_test(
    sources: Sources,
    dataset: str | None,
    place: Place,
    reading: Reading,
    classes: tuple[str, ...] = (),
    classes_from: str = "",
    run: Path | None = None,
) -> ClipSource:
    """Labelled clips of a frame store, or of files: without `place.split` those to test on.

    Files without a class map of their own get labels of `classes`, where these are given, by the names of their
    classes. The split `val` is what `run` held out, unless `place.root` has a split of that name. Raises UserError for
    options that do not belong together.
    """
    check_dataset(dataset, place)
    if run is not None and _is_held_out(sources, dataset or FOLDER, place, reading):
        return held_out(run, place.root, place.frames, classes, reading.decode_timeout_s, reading.allow_outside)
    if place.frames is not None and place.split is not None:
        raise UserError(
            f"--split {place.split} chooses among files, and --frames names a frame store; drop one of them"
        )
    clips = _clips(sources, dataset or FOLDER, place, reading, classes, classes_from)
    if place.split is not None and place.list_file is None:
        _check_split(sources, dataset or FOLDER, place, place.split, reading)
    return clips


def _is_held_out(sources: Sources, dataset: str, place: Place, reading: Reading) -> bool:
    """Whether `place` asks for what a run held out, and not for a part of a root that is called `val`."""
    if place.split != HELD_OUT or place.list_file is not None:
        return False
    return place.root is None or not sources.says_split(dataset, place.root, HELD_OUT, reading.allow_outside)


def check_dataset(dataset: str | None, *places: Place) -> None:
    """Raise UserError where `dataset` would say how files are read, and there are none."""
    given = [place for place in places if place.is_given]
    if dataset is not None and given and all(place.frames is not None for place in given):
        raise UserError(
            f"--dataset {dataset} says how files are read, and --frames names a frame store; drop one of them"
        )


def train_and_val(
    sources: Sources, dataset: str, train: Place, val: Place, val_share: float, seed: int, reading: Reading
) -> tuple[ClipSource, ClipSource]:
    """Labelled clips to train on and to validate on: those that `val` names, else those that the root of `train` keeps
    apart, else `val_share` of every class, which is said on stderr."""
    if dataset == "list" and val.root is not None and val.list_file is None:
        raise UserError(f"--val-root {val.root}: dataset list needs --val-list FILE as well")
    to_train = _clips(sources, dataset, train._replace(split="train"), reading)
    if val.is_given and val.root is None and val.frames is None:
        val = val._replace(root=train.root, frames=train.frames)  # another list of the same place
    if val.is_given:
        return to_train, _clips(sources, dataset, val, reading, to_train.classes, to_train.path)
    split = sources.split_to_test(dataset)
    if train.frames is None and train.list_file is None:
        assert train.root is not None  # or there were no clips
        if all(sources.has_split(dataset, train.root, name, reading.allow_outside) for name in ("train", split)):
            apart = Place(root=train.root, split=split)
            return to_train, _clips(sources, dataset, apart, reading, to_train.classes, to_train.path)
    train_items, val_items = split_items(to_train.items, val_share, seed)
    note(
        f"{to_train.path}: {len(val_items)} of {len(to_train.items)} videos held out to validate on, {val_share:g} of "
        "every class; to name others: --val-root, --val-frames, --val-list"
    )
    return to_train.subset(train_items), to_train.subset(val_items)


def _check_split(sources: Sources, dataset: str, place: Place, split: str, reading: Reading) -> None:
    """Raise UserError where all of the root would be taken for a split that it does not know."""
    assert place.root is not None  # or there were no clips
    if not sources.has_split(dataset, place.root, split, reading.allow_outside):
        raise UserError(f"--split {split}: no such folder in --root {place.root}, and no official list of it; drop it")


def _clips(
    sources: Sources,
    dataset: str,
    place: Place,
    reading: Reading,
    classes: tuple[str, ...] = (),
    classes_from: str = "",
) -> ClipSource:
    """The clips of one place."""
    if place.frames is not None:
        return _stored(sources, place, place.frames)
    if place.root is None:
        raise UserError(f"no data: give --{place.of}root (files) or --{place.of}frames (a frame store)")
    split = place.split or sources.split_to_test(dataset)
    listing = sources.list_sources(dataset, place.root, split, place.list_file, reading.allow_outside)
    sources.check_found(listing, place.root, place.list_file)
    for odd in listing.warnings:
        warn(odd)
    if listing.ignored_note:
        note(f"{place.root}: {listing.ignored_note}")
    if classes:
        listing = sources.label_by(listing, classes, str(place.list_file or place.root), classes_from)
    limit_s = reading.decode_timeout_s or DECODE_TIMEOUT_S
    return FileClips(place.root, tuple(listing.items), listing.classes, limit_s)


def _stored(sources: Sources, place: Place, frames: str) -> ClipSource:
    """The clips of a frame store, or those of them that a list names."""
    if place.root is not None:
        raise UserError(
            f"--{place.of}root {place.root} and --{place.of}frames {frames}: clips come from files or from a frame "
            f"store; drop one of them"
        )
    source = StoreClips(as_path(frames))
    if place.list_file is None:
        return source
    return source.subset(
        sources.choose_stored(source.folder, source.store.manifest, source.items, as_path(place.list_file))
    )
