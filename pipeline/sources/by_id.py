"""Data sets whose annotations name videos by id: where the file of an id is, whatever layout it was downloaded in."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.sources.listing import kind_of
from pipeline.sources.tree import Tree

_TRIMMED = re.compile(r"(.+)_\d{6}_\d{6}")  # {youtube_id}_{start:06d}_{end:06d}


class MediaIndex:
    """The media files and frame folders below `base`, by id: a file's name without its suffix, or a folder's name."""

    def __init__(self, tree: Tree, base: str, frame_folders: str | None = None) -> None:
        """`frame_folders`: where each folder is one video's frames."""
        self.by_name: dict[str, list[str]] = {}
        for path in tree.files(base):
            if frame_folders is not None and path.startswith(f"{frame_folders}/"):
                continue
            if kind_of(path) is not None:
                self.by_name.setdefault(PurePosixPath(path).stem, []).append(path)
        if frame_folders is not None:
            for name in tree.folders(frame_folders):
                tree.check_frames(f"{frame_folders}/{name}")
                self.by_name.setdefault(name, []).append(f"{frame_folders}/{name}")
        self.by_id: dict[str, list[str]] = {}
        for name, paths in self.by_name.items():
            trimmed = _TRIMMED.fullmatch(name)
            if trimmed:
                self.by_id.setdefault(trimmed[1], []).extend(paths)

    def find(self, names: Iterable[str], folder: str | None = None) -> str | None:
        """The file of the first of `names` that is there; of several, one in a folder called `folder` is preferred."""
        for name in names:
            paths = self.by_name.get(name) or self.by_id.get(name)
            if paths:
                same = [path for path in paths if PurePosixPath(path).parent.name.replace("_", " ") == folder]
                return (same or paths)[0]
        return None


def annotation(tree: Tree, names: Iterable[str]) -> str | None:
    """The first of the file `names` in the root, `annotations/`, `labels/` or `annotation/`, as a path in the tree."""
    for name in names:
        for folder in ("", "annotations", "labels", "annotation"):
            path = str(PurePosixPath(folder, name))
            if tree.is_file(path):
                return path
    return None
