"""A listing of sources, and the list files that people have: `path label`, with any separator, split from the right."""

import csv
import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.files import write_atomic
from bevt_core.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from bevt_core.objects import AnyPath
from bevt_core.tables import read_table
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA, MediaKind, SourceItem

SHOWN_NAMES = 5  # of the classes that are not known


@dataclass(frozen=True)
class SourceListing:
    """The items of a split in a fixed order, the class names by label, and what was left out."""

    items: list[SourceItem]
    classes: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)  # in the list, not on disk; among the items too
    ignored: dict[str, int] = field(default_factory=dict)  # files that are no sources, by what they are
    inferred: bool = False  # the classes are those that occur: no file says what they are

    @property
    def ignored_note(self) -> str:
        return "ignored: " + ", ".join(f"{count} {what}" for what, count in self.ignored.items())


def kind_of(path: str) -> MediaKind | None:
    """By the file name's suffix."""
    suffix = PurePosixPath(path).suffix.lower()
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


def media_files(paths: Iterable[str], wanted: MediaKind | None) -> tuple[list[tuple[str, MediaKind]], dict[str, int]]:
    """The media files of one kind, and the count of the others by suffix.

    `wanted` None: the videos where there are any (pictures beside them are thumbnails), else the pictures.
    """
    by_kind: dict[MediaKind | None, list[str]] = {"video": [], "image": [], None: []}
    for path in paths:
        by_kind[kind_of(path)].append(path)
    kind: MediaKind = wanted or ("video" if by_kind["video"] else "image")
    others = [path for other, some in by_kind.items() if other != kind for path in some]
    ignored = Counter(PurePosixPath(path).suffix.lower() or "without a suffix" for path in others)
    return [(path, kind) for path in by_kind[kind]], dict(sorted(ignored.items()))


def read_classes(path: AnyPath) -> tuple[str, ...]:
    """Class names, one per line, the label being the line's position."""
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: the class {twice[0]!r} occurs twice")
    return names


def find_classes(folders: Iterable[AnyPath]) -> tuple[str, ...]:
    """The `classes.txt` of the first folder that has one; empty where none has."""
    found = [folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()]
    return read_classes(found[0]) if found else ()


def list_from_file(tree: Tree, list_file: AnyPath, prefixes: Sequence[str], kind: MediaKind) -> SourceListing:
    """The items of a `path label` file.

    A path is looked for under the root and under each of `prefixes`, as a file, as a folder of frames, and without the
    frame counts that lists of frame folders carry. Labels are numbers, or names of the `classes.txt` beside the list or
    in the root, else of the tree's classes. Raises UserError with the line.
    """
    classes = find_classes([list_file.parent, tree.root]) or tree.classes
    items, missing, largest = [], [], -1
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{list_file}, line {number}"
        path, label_text = split_line(line, classes, where)
        label = parse_label(label_text, classes, where)
        path = tree.inside(path, where)
        found = find_media(tree, path, prefixes)
        source = found or str(PurePosixPath(prefixes[-1], path if kind_of(path) else _forms(path)[-1]))
        if found is None:
            missing.append(source)
        largest = max(largest, -1 if label is None else label)
        items.append(SourceItem(source=source, kind=kind_of(source) or kind, label=label))
    check_unique(items, str(list_file))
    numbers = tuple(str(label) for label in range(largest + 1))
    return SourceListing(items, classes or numbers, missing, inferred=not classes)


def label_by(listing: SourceListing, classes: tuple[str, ...], where: str, classes_from: str) -> SourceListing:
    """The listing with labels of the class map `classes`, where it has none of its own, by the names of its classes.

    Raises UserError for names that are none of `classes`.
    """
    if not listing.inferred or listing.classes == classes:
        return listing
    used = sorted({item.label for item in listing.items if item.label is not None})
    labels = {label: class_index(listing.classes[label], classes) for label in used}
    unknown = [listing.classes[label] for label in used if labels[label] is None]
    if unknown:
        shown = ", ".join(map(repr, unknown[:SHOWN_NAMES])) + (", ..." if len(unknown) > SHOWN_NAMES else "")
        raise UserError(
            f"{where}: {len(unknown)} of its {len(used)} classes ({shown}) are none of the {len(classes)} of "
            f"{classes_from}; rename or leave out what is called so; where these are numbers of a list, a classes.txt "
            "beside it, a name per line, says which classes they mean"
        )
    items = [
        item if item.label is None else item.model_copy(update={"label": labels[item.label]}) for item in listing.items
    ]
    return replace(listing, items=items, classes=classes if used else ())


def find_media(tree: Tree, path: str, prefixes: Sequence[str]) -> str | None:
    """Where a list's path is: `path`, or `path` less one or two trailing numbers (`id start end`), under a prefix."""
    for form in _forms(path):
        for prefix in prefixes:
            candidate = str(PurePosixPath(prefix, form))
            if tree.is_file(candidate):
                return candidate
            if tree.is_folder(candidate):
                tree.check_frames(candidate)
                return candidate
    return None


def _forms(path: str) -> list[str]:
    """A path of a list, and the same without the frame counts behind it."""
    words = path.split(" ")
    return [path] + [" ".join(words[:-n]) for n in (1, 2) if len(words) > n and all(w.isdigit() for w in words[-n:])]


def split_line(line: str, classes: tuple[str, ...], where: str) -> tuple[str, str]:
    """(path, label) of one line: cut at the last tab, comma or blank that a label follows."""
    text = line.strip("\r\n").rstrip()
    for separator in ("\t", ",", " "):
        path, found, label = text.rpartition(separator)
        label = label.strip()
        known = _is_number(label) or class_index(label, classes) is not None
        if found and path and (known or (separator == "\t" and not classes)):
            return _unquoted(path.rstrip() if separator == " " else path), label
    for name in classes:  # a class name with blanks, after a blank
        if text.endswith(f" {name}"):
            return _unquoted(text[: -len(name)].rstrip()), name
    raise UserError(f"{where}: {line!r} does not end in a label; expected `path label`, the label a number or a class")


@functools.lru_cache(maxsize=4096)
def class_index(name: str, classes: tuple[str, ...]) -> int | None:
    """The label of a class name; blanks may be written as underscores."""
    if name in classes:
        return classes.index(name)
    plain = [other.replace("_", " ") for other in classes]
    return plain.index(name.replace("_", " ")) if name.replace("_", " ") in plain else None


def parse_label(text: str, classes: tuple[str, ...], where: str) -> int | None:
    """The label as a number; -1 means none (test sets)."""
    named = class_index(text, classes)
    if named is not None:
        return named
    if not _is_number(text):
        raise UserError(f"{where}: unknown class {text!r}; put the class names into a classes.txt beside the list")
    label = int(text)
    if label < 0:
        return None
    if classes and label >= len(classes):
        raise UserError(f"{where}: label {label}, but there are only {len(classes)} classes")
    return label


def check_unique(items: Sequence[SourceItem], where: str) -> None:
    """A source is its own identity: raise UserError for one that occurs twice."""
    twice = [source for source, count in Counter(item.source for item in items).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]!r} occurs more than once ({len(twice)} such sources)")


def read_csv(path: AnyPath, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header. Raises UserError where a column is missing."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(f"{path}: no column {lacking[0]!r}; it has {', '.join(reader.fieldnames or ())}")
        return list(reader)


def write_parquet_list(path: AnyPath, listing: SourceListing) -> None:
    """A listing with its class map, as `--list` takes it."""
    written = pa.BufferOutputStream()
    table = pa.Table.from_pylist([item.model_dump() for item in listing.items], schema=SOURCES_SCHEMA)
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(listing.classes)}), written)
    write_atomic(path, written.getvalue().to_pybytes())


def read_parquet_list(tree: Tree, path: AnyPath) -> SourceListing:
    """What `write_parquet_list` wrote; every path is checked again to lie inside the root."""
    table = read_table(path)
    if not set(SOURCES_SCHEMA.names) <= set(table.column_names):
        raise UserError(f"{path}: columns {table.column_names}, expected {SOURCES_SCHEMA.names} (bevt scan --write)")
    items = [SourceItem(**row) for row in table.select(SOURCES_SCHEMA.names).to_pylist()]
    for number, item in enumerate(items):
        tree.inside(item.source, f"{path}, row {number}")
    check_unique(items, str(path))
    metadata = table.schema.metadata or {}
    missing = [item.source for item in items if find_media(tree, item.source, [""]) is None]
    return SourceListing(items, tuple(json.loads(metadata.get(b"classes", b"[]"))), missing)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _unquoted(path: str) -> str:
    return path[1:-1].replace('""', '"') if len(path) > 1 and path[0] == path[-1] == '"' else path
