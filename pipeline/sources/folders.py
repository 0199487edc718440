"""Data sets whose classes are folders: any folder, and ImageNet's wnid trees."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.sources.listing import SourceListing, find_classes, list_from_file, media_files
from pipeline.sources.tree import Tree, parent_name
from schemas.errors import UserError
from schemas.frames import MediaKind, SourceItem

_WNID = re.compile(r"n\d{8}")


def list_folder(tree: Tree, split: str, list_file: Path | None) -> SourceListing:
    """Videos (or, where there are none, pictures) in any depth; the class is the name of the folder a file lies in."""
    base = base_folder(tree, split)
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "video")
    return list_classes(tree, base, None)


def list_imagenet(tree: Tree, split: str, list_file: Path | None) -> SourceListing:
    """`<root>/<split>/<wnid>/*` or `<root>/<wnid>/*`; a label is the position of its wnid in sorted order."""
    base = split if tree.is_folder(split) else ""
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "image")
    strangers = [name for name in tree.folders(base) if not _WNID.fullmatch(name)]
    if strangers or not tree.folders(base):
        found = f"a folder {strangers[0]!r}" if strangers else "no folders"
        raise UserError(
            f"{tree.root / base}: {found}, expected folders named by wnid such as n01440764; "
            "for other names use --dataset folder"
        )
    return list_classes(tree, base, "image")


def base_folder(tree: Tree, split: str) -> str:
    """Where the class folders are: `<split>`, `videos/<split>`, `videos` or the root itself."""
    for base in (split, f"videos/{split}", "videos"):
        if base and tree.is_folder(base):
            return base
    return ""


def list_classes(tree: Tree, base: str, wanted: MediaKind | None) -> SourceListing:
    """Every media file below `base`; files directly in it have no class. A `classes.txt` fixes the order of classes."""
    found, ignored = media_files(tree.files(base), wanted)
    names = class_names((path for path, _ in found), base)
    classes = find_classes([tree.root / base, tree.root]) or tuple(sorted(set(names.values()) - {""}))
    unknown = sorted(set(names.values()) - {"", *classes})
    if unknown:
        raise UserError(
            f"{tree.root / base}: the folder {unknown[0]!r} is none of the {len(classes)} classes of classes.txt"
        )
    labels = {name: label for label, name in enumerate(classes)}
    items = [SourceItem(source=path, kind=kind, label=labels.get(names[path])) for path, kind in found]
    return SourceListing(items, classes if any(item.label is not None for item in items) else (), [], ignored)


def class_names(paths: Iterable[str], base: str) -> dict[str, str]:
    """path -> the name of its folder; empty for a file that lies directly in `base`."""
    return {path: "" if str(Path(path).parent) == (base or ".") else parent_name(path) for path in paths}
