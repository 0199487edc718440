"""Sources of clips for fine-tuning and evaluation: a frame store, or the video files themselves."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bevt_core.console.readable import count
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.source_list import SourceTable, labels_of, sources_digest
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.views.replay import decode_jpeg
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.recipes import DECODE_TIMEOUT_S, ClipSampling
from schemas.runs import ClipStorage
from trainer.clips.content_digest import content_digest
from trainer.clips.isolated_frames import read_frames
from trainer.clips.sampling import OTHER_SAMPLING, interval_in_pool

Frame = NDArray[np.uint8]  # HWC, RGB
Choose = Callable[[int], NDArray[np.int64]]  # number of positions -> those to read, in any order, repeats allowed

COLUMNS = ["source", "label", "part", "frame_start", "num_frames", "height", "width"]  # of a store, per clip

FILE_SHORT_SIDE_PX = 256  # original: Resize(-1, 256) before every crop; the same as in a frame store's pool


class ClipSource(Protocol):
    """Videos, with labels if needed. Picklable, for the loader's workers."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""

    @property
    def items(self) -> Sequence[SourceItem]:
        """The videos, by index."""

    @property
    def stride(self) -> int:
        """Source frames between neighbouring positions."""

    @property
    def uneven_item(self) -> str | None:
        """The name of an item whose positions are not `stride` apart, or None."""

    @property
    def digest(self) -> str:
        """Digest of the items, labels and classes."""

    @property
    def path(self) -> str:
        """Location, for messages and the run record."""

    @property
    def storage(self) -> ClipStorage:
        """Kind of storage: files or a frame store."""

    def digest_of(self, index: int) -> str | None:
        """Digest of an item's content; in a frame store, of the whole store. None if the item is missing."""

    def read(self, index: int, choose: Choose) -> list[Frame]:
        """Return the frames at the positions `choose(number of positions)`, in that order. Raises MediaError."""

    def subset(self, items: Sequence[SourceItem]) -> "ClipSource":
        """Return the same source with only these items."""


@dataclass(frozen=True)
class FileClips:
    """Videos, folders of a video's frames and pictures below `root`, decoded when they are read.

    A file that takes longer than `decode_timeout_s` seconds, or crashes the decoder, counts as unreadable.
    """

    root: Path
    items: Sequence[SourceItem]
    classes: tuple[str, ...]
    decode_timeout_s: float = DECODE_TIMEOUT_S

    @property
    def stride(self) -> int:
        return 1

    @property
    def uneven_item(self) -> str | None:
        return None

    @property
    def path(self) -> str:
        return str(self.root)

    @functools.cached_property
    def digest(self) -> str:
        return _digest(self.items, self.classes, "files")

    @property
    def storage(self) -> ClipStorage:
        return "files"

    def digest_of(self, index: int) -> str | None:
        """Digest of a file's content, independent of its name and root: see `content_digest`."""
        return content_digest(self.root / self.items[index].source)

    def read(self, index: int, choose: Choose) -> list[Frame]:
        item = self.items[index]
        chosen = np.zeros(0, np.int64)

        def increasing(num_frames: int) -> NDArray[np.int64]:
            nonlocal chosen
            chosen = choose(num_frames)
            return np.unique(chosen)

        if item.kind == "image":
            increasing(1)
        path, limit_s = self.root / item.source, self.decode_timeout_s
        frames, indices = read_frames(path, item.kind, increasing, FILE_SHORT_SIDE_PX, limit_s)
        return [frames[at] for at in np.searchsorted(indices, chosen)]

    def subset(self, items: Sequence[SourceItem]) -> "FileClips":
        return replace(self, items=items)


class StoreClips:
    """The samples of a finished frame store, or some of them. Its columns are shared by the loader's workers."""

    def __init__(self, folder: AnyPath, rows: NDArray[np.int64] | None = None) -> None:
        """`rows` are the samples' positions in `store.samples`; default: all."""
        self.folder, self._rows = folder, rows

    @classmethod
    def of_sources(cls, folder: AnyPath, sources: Iterable[str]) -> "StoreClips":
        """The samples of these sources."""
        return cls(folder)._of_sources(pa.array(sources, pa.large_string()))

    @functools.cached_property
    def store(self) -> FrameStore:
        return FrameStore(self.folder)

    @functools.cached_property
    def _samples(self) -> pa.RecordBatch:
        """The columns of COLUMNS of each sample."""
        samples = self.store.samples.select(COLUMNS)
        return samples if self._rows is None else samples.take(pa.array(self._rows))

    @functools.cached_property
    def items(self) -> SourceTable:
        return SourceTable.of_kind(self._samples["source"], "video", self._samples["label"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by label. Raises UserError for clips of several data sets in one store."""
        starts = sorted({f"{mixed.prefix}/" for mixed in self.store.manifest.mix})
        found = [name for name in starts if pc.any(pc.starts_with(self._samples["source"], name)).as_py()]
        if len(found) > 1:
            raise UserError(
                f"{self.path}: mixes {', '.join(name[:-1] for name in found)}, whose classes are kept apart; choose "
                "the clips of one with a list of its sources (`list_file`)"
            )
        return self.store.manifest.classes

    @property
    def stride(self) -> int:
        return self.store.manifest.pool.stride

    @functools.cached_property
    def uneven_item(self) -> str | None:
        """A long video whose pool was thinned to `max_frames`."""
        return next(iter(thinned(self.store)), None)

    @property
    def path(self) -> str:
        return str(self.folder)

    @functools.cached_property
    def digest(self) -> str:
        return _digest(self.items, self.classes, self.store.digest)

    @property
    def storage(self) -> ClipStorage:
        return "frames"

    def digest_of(self, index: int) -> str | None:
        """The store's digest, which covers every frame; a copy of the store has the same digest."""
        return self.store.digest

    def frame_indices(self, index: int) -> list[int]:
        """Return the numbers of an item's stored frames in its source video."""
        indices: list[int] = self.store.row(index if self._rows is None else int(self._rows[index]))["frame_indices"]
        return indices

    def read(self, index: int, choose: Choose) -> list[Frame]:
        names = ("part", "frame_start", "num_frames", "height", "width")
        part, start, count, height, width = (self._samples[name][index].as_py() for name in names)
        chosen = choose(count)
        first, last = int(chosen.min()), int(chosen.max())
        jpegs = self.store.read_jpegs(part, start + first, last - first + 1)
        size = (height, width)
        decoded = {position: decode_jpeg(jpegs[position - first], size) for position in np.unique(chosen).tolist()}
        return [decoded[position] for position in chosen.tolist()]

    def subset(self, items: Sequence[SourceItem]) -> "StoreClips":
        return self._of_sources(SourceTable.of(items).rows["source"])

    def _of_sources(self, sources: pa.Array) -> "StoreClips":
        (chosen,) = np.nonzero(pc.is_in(self._samples["source"], value_set=sources).to_numpy(zero_copy_only=False))
        return StoreClips(self.folder, chosen if self._rows is None else self._rows[chosen])

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("folder", "_rows", "store", "_samples")}
        return {**kept, "uneven_item": self.uneven_item}


def thinned(store: FrameStore) -> list[str]:
    """Return the long sources, whose pools were thinned to `pool.max_frames`.

    Their frames are evenly spread, but more than `pool.stride` source frames apart.
    """
    count_N, span_N = store.samples["num_frames"].to_numpy(), store.samples["span"].to_numpy()
    chosen = np.flatnonzero((count_N > 1) & (span_N != store.manifest.pool.stride * (count_N - 1)))
    sources: list[str] = store.samples["source"].take(pa.array(chosen)).to_pylist()
    return sources


def stores_of(*sources: ClipSource) -> list[AnyPath]:
    """Return the locations of the frame stores among `sources`."""
    return [as_path(source.path) for source in sources if source.storage == "frames"]


def check_classes(have: Sequence[str], expected: Sequence[str], have_from: str, expected_from: str) -> None:
    """Raise UserError unless both have the same classes with the same labels."""
    if tuple(have) == tuple(expected):
        return
    pairs = zip(have, expected, strict=False)
    differing = next((f"label {i}: {a!r} and {b!r}" for i, (a, b) in enumerate(pairs) if a != b), "")
    raise UserError(
        f"{have_from} has {count(len(have), 'class')} and {expected_from} has {len(expected)}, and they differ"
        f"{': ' + differing if differing else ''}; use data with the class map that the head was trained on"
    )


def interval_of(source: ClipSource, sampling: ClipSampling) -> int:
    """Return the sampling's interval in positions of the source. Raises UserError if the source does not support it."""
    if sampling.kind == "dense" and source.uneven_item is not None:
        raise UserError(
            f"{source.path}: the frames of {source.uneven_item} were thinned to pool.max_frames, so clips with a fixed "
            f"interval cannot be drawn; {OTHER_SAMPLING}, or store the frames with a larger pool.max_frames"
        )
    return interval_in_pool(sampling, source.stride)


def check_labels(source: ClipSource) -> None:
    """Raise UserError unless there are items, each with a label of the class map."""
    if not source.items:
        raise UserError(
            f"{source.path}: no clips found; if every source of a frame store was rejected, see the report.html "
            "beside it for the reasons"
        )
    labels = labels_of(source.items)
    if labels.null_count:
        first = source.items[pc.index(labels.is_null(), True).as_py()]
        raise UserError(
            f"{source.path}: clips without a class: {labels.null_count} of {len(labels)}, such as {first.source}; "
            "expected a folder per class, a list with labels, or an official set by its name (--dataset k400). If this "
            "is the folder of one class or one split, give the folder above it"
        )
    wrong = pc.or_(pc.less(labels, 0), pc.greater_equal(labels, len(source.classes)))
    if pc.any(wrong).as_py():
        item = source.items[pc.index(wrong, True).as_py()]
        raise UserError(f"{source.path}: {item.source} has label {item.label}, expected 0 to {len(source.classes) - 1}")


def _digest(items: Sequence[SourceItem], classes: Sequence[str], frames: str) -> str:
    """The digest of a clip source; `frames` is the digest of its frame store, or "files"."""
    return hashlib.sha256(repr((sources_digest(items), tuple(classes), frames)).encode()).hexdigest()
