"""Class names and labels: `classes.txt`, and the label at the end of a list's line."""

import functools
from collections import Counter
from collections.abc import Iterable

from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import Lines
from schemas.errors import UserError
from schemas.text.plain import shown

MAX_CLASSES = 1_000_000
MAX_NUMBERED = 30_000  # classes without names, unless a list has more lines; ImageNet-21k has 21,841


def read_classes(path: AnyPath) -> tuple[str, ...]:
    """Read class names by label: a name per line, labelled by its position, or `name<TAB>label` on every line."""
    listed = Lines(path)
    if listed.count > MAX_CLASSES:
        raise UserError(f"{path}: {listed.count} lines, expected at most {MAX_CLASSES} class names, one per line")
    lines = [(where, line.strip()) for where, line in listed]
    pairs = [line.rpartition("\t") for _, line in lines]
    if lines and all(name and is_number(label.strip()) for name, _, label in pairs):
        return _by_number(
            [(where, name.strip(), label.strip()) for (where, _), (name, _, label) in zip(lines, pairs, strict=True)]
        )
    names = tuple(line for _, line in lines)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = [where for where, line in lines if line == twice[0]][1]
        raise UserError(f"{where}: the class {shown(twice[0])} occurs twice")
    return names


def _by_number(lines: list[tuple[str, str, str]]) -> tuple[str, ...]:
    """The names of (where, name, label) in the order of their labels, which must be 0 to one less than the lines."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for where, name, text in lines:
        label = int(text) if len(text) < 10 else -1
        if not 0 <= label < len(lines) or label in names or name in labels:
            raise UserError(
                f"{where}: class {shown(name)} with label {shown(text)}, expected every name and every label from 0 to "
                f"{len(lines) - 1} once"
            )
        names[label], labels[name] = name, label
    return tuple(names[label] for label in range(len(lines)))


def find_classes(folders: Iterable[AnyPath]) -> tuple[str, ...]:
    """The class names of the first folder that has a `classes.txt`; empty if none has."""
    found = [folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()]
    return read_classes(found[0]) if found else ()


@functools.lru_cache(maxsize=4096)
def class_index(name: str, classes: tuple[str, ...]) -> int | None:
    """The label of a class name, None if unknown; spaces and underscores are equivalent."""
    if name in classes:
        return classes.index(name)
    plain = [other.replace("_", " ") for other in classes]
    return plain.index(name.replace("_", " ")) if name.replace("_", " ") in plain else None


def parse_label(text: str, classes: tuple[str, ...], where: str, lines: int = 0) -> int | None:
    """The label that `text` means, a number or a class name; negative numbers mean None (test sets).

    `lines` is the length of the list. Raises UserError for unknown names, and for numbers that are too large.
    """
    named = class_index(text, classes)
    if named is not None:
        return named
    if not is_number(text):
        raise UserError(f"{where}: unknown class {shown(text)}; put the class names into a classes.txt beside the list")
    if text.startswith("-"):
        return None
    label = int(text) if len(text) < 10 else None
    if classes and (label is None or label >= len(classes)):
        raise UserError(f"{where}: label {text[:20]}, expected one below {len(classes)}, the number of classes")
    most = max(lines, MAX_NUMBERED)
    if label is None or label >= most:
        raise UserError(
            f"{where}: label {text[:20]}, expected one below {most}; for more classes, put their names into a "
            "classes.txt beside the list"
        )
    return label


def is_number(text: str) -> bool:
    """Whether a text is an integer in ASCII digits."""
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
