"""A listing of sources with their classes, and its Parquet file."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from bevt_core.dataset.source_list import BLOCK_ROWS, sources_table
from bevt_core.media.kinds import GIF, kind_of_suffix, named, suffix_of
from bevt_core.storage.files import write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import read_parquet
from pipeline.sources.archives.packed_file import PackedFile
from pipeline.sources.class_names import MAX_NUMBERED, class_index
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA, MediaKind, SourceItem
from schemas.text.json_text import json_text, parse_json
from schemas.text.plain import shown

SHOWN_NAMES = 5  # unknown classes quoted in an error


@dataclass(frozen=True)
class SourceListing:
    """The items of a split in a fixed order, the class names by label, and the files left out."""

    items: Sequence[SourceItem]
    classes: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)  # sources that a list names but that do not exist; also in items
    ignored: dict[str, int] = field(default_factory=dict)  # number of files that are not sources, by suffix
    inferred: bool = False  # True if no file defines the classes: they are those that occur
    warnings: list[str] = field(default_factory=list)  # likely mistakes in the list
    packed: Mapping[str, tuple[PackedFile, ...]] = field(default_factory=dict)  # source -> its files in archives

    @property
    def ignored_note(self) -> str:
        """A phrase about the files left out; empty if there are none."""
        counts = ", ".join(f"{count} {suffix}" for suffix, count in self.ignored.items())
        return f"files not used: {counts}" if counts else ""


class ListingBuilder:
    """Builds the listing of an annotation file line by line."""

    def __init__(self, tree: Tree) -> None:
        self.items: list[SourceItem] = []
        self._tree = tree
        self._missing: list[str] = []
        self._lines: dict[str, str] = {}

    def add(self, where: str, found: str | None, expected: str, kind: MediaKind, label: int | None) -> None:
        """Add the source of line `where`: the path `found`, or the path `expected` if the file is missing.

        Raises UserError for a path that leads out of the root, and for a source that an earlier line names.
        """
        source = self._tree.path_inside(expected, where) if found is None else found
        first = self._lines.setdefault(source, where)
        if first != where:
            raise UserError(f"{where}: {shown(source)} occurs more than once; first in {first}")
        if found is None:
            self._missing.append(source)
        self.items.append(SourceItem(source=source, kind=kind, label=label))

    def listing(self, classes: tuple[str, ...], inferred: bool = False, warnings: Sequence[str] = ()) -> SourceListing:
        return SourceListing(self.items, classes, self._missing, inferred=inferred, warnings=list(warnings))


class MediaFiles(NamedTuple):
    """The media files of one kind, in the order of their listing, and the number of other files by suffix."""

    paths: pa.Array  # large_string
    folders: list[str]  # that have files, media or not; empty for the root
    folder_N: NDArray[np.int32]  # position in `folders` of each path's folder
    kind: MediaKind
    ignored: dict[str, int]


def media_files(paths: Iterable[str], wanted: MediaKind | None) -> MediaFiles:
    """Select the media files of one kind.

    `wanted` None means the videos if there are any (pictures beside them are thumbnails), else the pictures. GIFs count
    as the kind of the other files, and as videos if there are no others.
    """
    suffixes: dict[str, int] = {}  # -> its number
    folders: dict[str, int] = {}
    blocks: list[pa.Array] = []
    numbers = [np.zeros((0, 2), np.int32)]
    paths = iter(paths)
    while names := list(itertools.islice(paths, BLOCK_ROWS)):
        blocks.append(pa.array(names, pa.large_string()))
        pairs = [
            (
                suffixes.setdefault(suffix_of(path), len(suffixes)),
                folders.setdefault(path[: max(0, path.rfind("/"))], len(folders)),
            )
            for path in names
        ]
        numbers.append(np.array(pairs, np.int32))
    suffix_N, folder_N = np.concatenate(numbers).T
    if wanted is None:
        kinds = {kind_of_suffix(suffix) for suffix in suffixes if suffix != GIF}
        wanted = "image" if "video" not in kinds and "image" in kinds else "video"
    is_media = np.array([kind_of_suffix(suffix, wanted) == wanted for suffix in suffixes], bool)
    kept_N = is_media[suffix_N] if len(suffix_N) else np.zeros(0, bool)
    for at, block in enumerate(blocks):
        first = at * BLOCK_ROWS
        blocks[at] = block.filter(pa.array(kept_N[first : first + BLOCK_ROWS]))
    found = pa.concat_arrays(blocks) if blocks else pa.array([], pa.large_string())
    counts = np.bincount(suffix_N, minlength=len(suffixes)).tolist()
    others = {suffix: count for suffix, count in zip(suffixes, counts, strict=True) if not is_media[suffixes[suffix]]}
    return MediaFiles(found, list(folders), folder_N[kept_N], wanted, named(others))


def label_by(listing: SourceListing, classes: tuple[str, ...], where: str, classes_from: str) -> SourceListing:
    """Relabel a listing whose classes are inferred by the class map `classes`, matching class names.

    Raises UserError for names that are not in `classes`.
    """
    if not listing.inferred or listing.classes == classes:
        return listing
    used = sorted({item.label for item in listing.items if item.label is not None})
    labels = {label: class_index(listing.classes[label], classes) for label in used}
    unknown = [listing.classes[label] for label in used if labels[label] is None]
    if unknown:
        quoted = ", ".join(map(repr, unknown[:SHOWN_NAMES])) + (", ..." if len(unknown) > SHOWN_NAMES else "")
        raise UserError(
            f"{where}: {len(unknown)} of its {len(used)} classes ({quoted}) are not among the {len(classes)} of "
            f"{classes_from}. Rename or remove these classes; if they are label numbers of a list, put the class names "
            "into a classes.txt beside it, one per line"
        )
    items = [
        item if item.label is None else item.model_copy(update={"label": labels[item.label]}) for item in listing.items
    ]
    return replace(listing, items=items, classes=classes if used else ())


def check_unique(items: Sequence[SourceItem], where: str) -> None:
    """Raise UserError for a source that occurs twice: its path is its identity."""
    twice = [source for source, count in Counter(item.source for item in items).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]!r} occurs more than once ({len(twice)} such sources)")


def write_parquet_list(path: AnyPath, listing: SourceListing) -> None:
    """Write a listing with its class map, for use with `--list`."""
    written = pa.BufferOutputStream()
    table = sources_table(listing.items)
    pq.write_table(table.replace_schema_metadata({"classes": json_text(listing.classes)}), written)
    write_atomic(path, written.getvalue().to_pybytes())


def read_parquet_list(tree: Tree, path: AnyPath) -> SourceListing:
    """Read a file of `write_parquet_list`, or another with the same columns. Raises UserError, with the row."""
    table = read_parquet(path, SOURCES_SCHEMA, "bevt scan --write")
    classes = _classes_in(path, table.schema.metadata or {})
    most = len(classes) or max(MAX_NUMBERED, len(table))
    builder = ListingBuilder(tree)
    for number, row in enumerate(table.to_pylist()):
        where = f"{path}, row {number}"
        if row["label"] is not None and not 0 <= row["label"] < most:
            raise UserError(f"{where}: label {row['label']}, expected 0 to {most - 1}, or null")
        try:
            item = SourceItem(**row)
        except ValidationError:
            raise UserError(f"{where}: {shown(row)}, expected a path and a kind, video or image") from None
        source = tree.path_inside(item.source, where)
        exists = tree.is_file(source) or tree.is_folder(source)
        builder.add(where, source if exists else None, source, item.kind, item.label)
    return builder.listing(classes)


def _classes_in(path: AnyPath, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    try:
        classes = parse_json(metadata.get(b"classes", b"[]").decode(), list, path)
    except ValueError:
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(
            f"{path}: its metadata `classes` is not a JSON list of names; write the file with `bevt scan --write`"
        )
    return tuple(classes)
