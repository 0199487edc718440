"""List files of `path label` lines, with any separator, split from the right."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from bevt_core.media.errors import MediaError
from bevt_core.media.frame_folders import frames_among
from bevt_core.media.kinds import kind_of
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import Lines
from pipeline.sources.class_names import class_index, find_classes, is_number, parse_label
from pipeline.sources.listing import ListingBuilder, SourceListing
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.frames import MediaKind
from schemas.text.plain import shown

MAX_COUNTS = 2  # numbers between a folder of frames and its label: the frame count, or the first and last frame


def list_from_file(tree: Tree, list_file: AnyPath, prefixes: Sequence[str], kind: MediaKind) -> SourceListing:
    """List the items of a `path label` file.

    Each path is tried under each of `prefixes` in the root, as a file, as a folder of frames, and without the frame
    counts of lists of frame folders (`path frames label`, `path first last label`). It may be absolute, if it is inside
    the root; Windows' backslashes are read as slashes. Labels are numbers, or names of the `classes.txt` beside the
    list or in the root, else of the tree's classes.

    Raises UserError with the line. Warns of frame counts that differ from the folders', and of labels that start at 1.
    """
    classes = find_classes([list_file.parent, tree.root]) or tree.classes
    lines = Lines(list_file)
    builder = ListingBuilder(tree)
    frame_counts = _FrameCountCheck()
    for where, line in lines:
        text, label_text = split_line(line, classes, where)
        label = parse_label(label_text, classes, where, lines.count)
        if "\\" in text and find_media(tree, text, prefixes) is None:
            text = text.replace("\\", "/")
        path = tree.path_inside(text, where)
        found = find_media(tree, path, prefixes)
        form, counts = found or _forms(path)[0 if kind_of(path) else -1]
        is_file = kind_of(form) is not None and not tree.is_folder(form)
        if counts and (is_file or len(counts) > MAX_COUNTS or counts[0] > counts[-1]):
            numbers = ", ".join(map(str, counts))
            raise UserError(
                f"{where}: {numbers} and the label {label_text} after {shown(form)}, expected only a label; "
                "frame counts are allowed only after folders of frames"
            )
        source = form if found else str(PurePosixPath(prefixes[-1], form))
        builder.add(where, source if found else None, source, kind_of(source, kind) or kind, label)
        if found and tree.is_folder(source):
            frame_counts.add(source, tree.frame_names(source), counts)
    labels = {item.label for item in builder.items if item.label is not None}
    warnings = frame_counts.warnings(list_file)
    if not classes and labels and min(labels) == 1:
        warnings.append(
            f"{list_file}: labels are 1 to {max(labels)}, so class 0 has no clips; labels start at 0: "
            "subtract 1, or put the class names into a classes.txt beside the list"
        )
    numbers_as_names = tuple(str(label) for label in range(max(labels, default=-1) + 1))
    return builder.listing(classes or numbers_as_names, inferred=not classes, warnings=warnings)


def find_media(tree: Tree, path: str, prefixes: Sequence[str]) -> tuple[str, list[int]] | None:
    """Find a list's path under a prefix: (path, trailing numbers of the text that are not part of it), or None."""
    for form, counts in _forms(path):
        for prefix in prefixes:
            candidate = str(PurePosixPath(prefix, form))
            if tree.is_file(candidate) or tree.is_folder(candidate):
                return candidate, counts
    return None


def _forms(path: str) -> list[tuple[str, list[int]]]:
    """The path, and the same without its last number, last two numbers, ..., each with the numbers removed."""
    forms: list[tuple[str, list[int]]] = [(path, [])]
    while True:
        text, counts = forms[-1]
        head = text.rstrip("0123456789")
        digits = text[len(head) :]
        shorter = head.rstrip(" \t,")
        if not digits or len(digits) > 9 or not shorter or shorter == head:
            return forms
        forms.append((shorter, [int(digits), *counts]))


def split_line(line: str, classes: tuple[str, ...], where: str) -> tuple[str, str]:
    """(path, label) of one line, split at the last tab, comma or space before a label."""
    text = line.rstrip()
    for separator in ("\t", ",", " "):
        path, found, label = text.rpartition(separator)
        label = label.strip()
        known = is_number(label) or class_index(label, classes) is not None
        if found and path.strip() and label and (known or (separator == "\t" and not classes)):
            return _unquoted(path.rstrip()), label
    for name in classes:  # a class name that contains spaces, after a space
        if text.endswith(f" {name}"):
            return _unquoted(text[: -len(name)].rstrip()), name
    raise UserError(
        f"{where}: {shown(line)} does not end in a label; expected `path label`, with a number or a class as label"
    )


def _unquoted(path: str) -> str:
    return path[1:-1].replace('""', '"') if len(path) > 1 and path[0] == path[-1] == '"' else path


class _FrameCountCheck:
    """Finds folders whose number of frames differs from the list's, for warnings."""

    def __init__(self) -> None:
        self.compared = 0
        self.unknown = 0
        self.differing: list[str] = []

    def add(self, folder: str, names: Sequence[str] | None, counts: Sequence[int]) -> None:
        """Compare `names`, the folder's files (None if unknown), with `counts`: [], [frames], or [first, last]."""
        if not counts:
            return
        if names is None:
            self.unknown += 1
            return
        try:
            num_frames = len(frames_among(names)[0])
        except MediaError:  # the job will reject the folder
            return
        self.compared += 1
        span = counts[-1] - counts[0]
        if num_frames not in ([counts[0]] if len(counts) == 1 else [span, span + 1]):
            listed = counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[1]}"
            self.differing.append(f"{folder}: {listed} in the list, {num_frames} in the folder")

    def warnings(self, list_file: AnyPath) -> list[str]:
        found = []
        if self.differing:
            found.append(
                f"{list_file}: the frame counts of {len(self.differing)} of {self.compared} folders differ from the "
                f"list ({self.differing[0]}); all frames in the folders are used"
            )
        if self.unknown:
            found.append(f"{list_file}: the frame counts of {self.unknown} folders in an object store were not checked")
        return found
