"""A listing of sources, and the list files that people have: `path label`, with any separator, split from the right."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bevt_core.decoding import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import MediaKind, SourceItem


@dataclass(frozen=True)
class SourceListing:
    """The items of a split in a fixed order, the class names by label, and what was left out."""

    items: list[SourceItem]
    classes: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)  # in the list, not on disk; among the items too
    ignored: dict[str, int] = field(default_factory=dict)  # files that are no sources, by what they are

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


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one per line, the label being the line's position."""
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: the class {twice[0]!r} occurs twice")
    return names


def find_classes(folders: Iterable[Path]) -> tuple[str, ...]:
    """The `classes.txt` of the first folder that has one; empty where none has."""
    found = [folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()]
    return read_classes(found[0]) if found else ()


def list_from_file(tree: Tree, list_file: Path, prefixes: Sequence[str], kind: MediaKind) -> SourceListing:
    """The items of a `path label` file. A path is looked for under the root and then under each of `prefixes`.

    Labels are numbers, or names of the `classes.txt` beside the list or in the root. Raises UserError with the line.
    """
    classes = find_classes([list_file.parent, tree.root])
    items, missing, largest = [], [], -1
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{list_file}, line {number}"
        path, label_text = split_line(line, classes, where)
        label = parse_label(label_text, classes, where)
        path = tree.inside(path, where)
        candidates = [f"{prefix}/{path}" if prefix else path for prefix in prefixes]
        found = [candidate for candidate in candidates if tree.is_file(candidate)]
        if not found:
            missing.append(path)
        largest = max(largest, -1 if label is None else label)
        items.append(SourceItem(source=found[0] if found else candidates[-1], kind=kind_of(path) or kind, label=label))
    check_unique(items, str(list_file))
    return SourceListing(items, classes or tuple(str(label) for label in range(largest + 1)), missing)


def split_line(line: str, classes: Sequence[str], where: str) -> tuple[str, str]:
    """(path, label) of one line: cut at the last tab, comma or blank that a label follows."""
    line = line.strip("\r\n")
    for separator in ("\t", ",", " "):
        path, found, label = line.rstrip().rpartition(separator)
        label = label.strip()
        if found and path and (_is_number(label) or label in classes or (separator == "\t" and not classes)):
            return _unquoted(path.strip() if separator == " " else path), label
    for name in classes:  # a class name with blanks, after a blank
        if line.rstrip().endswith(f" {name}"):
            return _unquoted(line.rstrip()[: -len(name)].strip()), name
    raise UserError(f"{where}: {line!r} does not end in a label; expected `path label`, the label a number or a class")


def parse_label(text: str, classes: Sequence[str], where: str) -> int | None:
    """The label as a number; -1 means none (test sets)."""
    if text in classes:
        return classes.index(text)
    if not _is_number(text):
        raise UserError(f"{where}: unknown class {text!r}; put the class names into a classes.txt beside the list")
    label = int(text)
    if label < 0:
        return None
    if classes and label >= len(classes):
        raise UserError(f"{where}: label {label}, but classes.txt has only {len(classes)} classes")
    return label


def check_unique(items: Sequence[SourceItem], where: str) -> None:
    """A source is its own identity: raise UserError for one that occurs twice."""
    twice = [source for source, count in Counter(item.source for item in items).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]!r} occurs more than once ({len(twice)} such sources)")


def _is_number(text: str) -> bool:
    return text.lstrip("-").isascii() and text.lstrip("-").isdigit()


def _unquoted(path: str) -> str:
    return path[1:-1].replace('""', '"') if len(path) > 1 and path[0] == path[-1] == '"' else path
