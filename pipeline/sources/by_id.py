"""Lookup of files by video id, for annotations that name ids, in any layout that downloaders produce."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from bevt_core.media.kinds import VIDEO_SUFFIXES, kind_of
from pipeline.sources.walk.tree import Tree

# Left by downloaders between the id and the suffix: `id.mp4.mkv`, `id.f137.mp4`.
_LEFTOVER = re.compile(rf"\.(f\d+(-\w+)?|{'|'.join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))})", re.IGNORECASE)
_SOUND = re.compile(r"\.f(139|140|141|171|249|250|251|256|258|600)$")  # YouTube's formats without a picture
_TRIMMED = re.compile(r"(.+)_\d{6}_\d{6}")  # {youtube_id}_{start:06d}_{end:06d}


class MediaIndex:
    """The media files and frame folders below `base`, by id: a file's name without its suffix, or a folder's name."""

    def __init__(self, tree: Tree, base: str, frame_folders: str | None = None) -> None:
        """`frame_folders` is a folder whose subfolders each contain one video's frames."""
        self.by_name: dict[str, list[str]] = {}
        for path in tree.files(base):
            if frame_folders is not None and path.startswith(f"{frame_folders}/"):
                continue
            if kind_of(path) is not None:
                self.by_name.setdefault(PurePosixPath(path).stem, []).append(path)
        if frame_folders is not None:
            for name in tree.folders(frame_folders):
                tree.frame_names(f"{frame_folders}/{name}")  # raises for links that lead out of the root
                self.by_name.setdefault(name, []).append(f"{frame_folders}/{name}")
        self.by_id: dict[str, list[str]] = {}
        for name, paths in self.by_name.items():
            for other in names_of(name)[1:]:
                if not _SOUND.search(name):
                    self.by_id.setdefault(other, []).extend(paths)

    def find(self, names: Iterable[str], folder: str | None = None) -> str | None:
        """The source of the first of `names` that has one, preferably in a folder named `folder`; None if none has."""
        for name in names:
            paths = self.by_name.get(name) or self.by_id.get(name)
            if paths:
                preferred = [path for path in paths if PurePosixPath(path).parent.name.replace("_", " ") == folder]
                return (preferred or paths)[0]
        return None


def names_of(stem: str) -> list[str]:
    """The stem of a file's name, then, if they differ, the same without what downloaders leave, and the video's id."""
    plain = _without_leftovers(stem)
    trimmed = _TRIMMED.fullmatch(plain)
    return list(dict.fromkeys([stem, plain, trimmed[1] if trimmed else plain]))


def _without_leftovers(name: str) -> str:
    stem, dot, last = name.rpartition(".")
    return _without_leftovers(stem) if stem and _LEFTOVER.fullmatch(dot + last) else name


def find_annotation(tree: Tree, names: Iterable[str]) -> str | None:
    """The first of the file `names` found in the root, `annotations/`, `labels/` or `annotation/`, or None."""
    for name in names:
        for folder in ("", "annotations", "labels", "annotation"):
            path = str(PurePosixPath(folder, name))
            if tree.is_file(path):
                return path
    return None
