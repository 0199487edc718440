"""Data sets with a folder per class."""

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa

from bevt_core.dataset.source_list import SourceTable
from bevt_core.storage.objects import AnyPath
from pipeline.sources.class_names import class_index, find_classes, is_number, parse_label
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import MediaFiles, SourceListing, media_files
from pipeline.sources.walk.tree import SPLIT_NAMES, Tree
from schemas.errors import UserError
from schemas.frames import MediaKind
from schemas.recipes.loading import nearest


def list_folder(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List videos (or pictures, if there are no videos) at any depth; the class of a file is the name of its folder."""
    base = base_folder(tree, split)
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "video")
    check_split_folder(tree, split)
    return list_class_folders(tree, base, None)


def base_folder(tree: Tree, split: str) -> str:
    """The folder that contains the class folders: `<split>`, `videos/<split>`, `videos` or the root itself."""
    return split_folder(tree, split) or ("videos" if tree.is_folder("videos") else "")


def split_folder(tree: Tree, split: str) -> str:
    """The folder for a split alone; empty if there is none."""
    folders = (f"{parent}/{split}" if parent else split for parent in tree.split_parents)
    return next((folder for folder in folders if folder and tree.is_folder(folder)), "")


def has_folder(tree: Tree, split: str) -> bool:
    """Whether the root has a separate folder for a split."""
    return bool(split_folder(tree, split))


def split_folders(tree: Tree) -> list[str]:
    """The names of the folders for splits, in the root or in one of its `split_parents`, such as `train` and `val`."""
    bases = [base for base in tree.split_parents if not base or tree.is_folder(base)]
    return sorted({name for base in bases for name in tree.folders(base) if name.lower() in SPLIT_NAMES})


def check_split_folder(tree: Tree, split: str) -> None:
    """Raise UserError if the root has folders for splits, but none for `split`: their files would be mixed."""
    found = split_folders(tree)
    if found and not has_folder(tree, split):
        raise UserError(
            f"`root` {tree.root}: no folder for split {split!r}, only for {', '.join(found)}; "
            f"{nearest(split, found)}give one that exists as `split`, or its folder as `root`"
        )


def list_class_folders(
    tree: Tree, base: str, wanted: MediaKind | None, no_classes: Collection[str] = ()
) -> SourceListing:
    """List every media file below `base`, with its folder as class; files directly in `base` have no class.

    `classes.txt` sets the order of the classes. `wanted` is as in `media_files`. The files of folders with the names
    `no_classes` have no class either.
    """
    media = media_files(tree.files(base), wanted)
    if tree.has_stored_labels and (stored := tree.stored_labels(media.paths.to_pylist())):
        return _list_labelled(tree, base, media, stored)
    used = np.unique(media.folder_N).tolist()  # positions of folders with media files
    names = {at: "" if media.folders[at] == base else media.folders[at].rpartition("/")[2] for at in used}
    names = {at: "" if name in no_classes else name for at, name in names.items()}
    defined = find_classes([tree.root / base, tree.root])
    classes = defined or tuple(sorted(set(names.values()) - {""}))
    labels = {name: class_index(name, classes) for name in set(names.values()) - {""}}
    unknown = sorted(name for name, label in labels.items() if label is None)
    if unknown:
        where = tree.root / base
        raise UserError(
            f"{where}: the folder {unknown[0]!r} is not among the {len(classes)} classes in classes.txt; add its name "
            "there, or move the folder away"
        )
    label_F = np.full(len(media.folders), -1, np.int32)  # of each folder
    for at, name in names.items():
        label = labels.get(name)
        label_F[at] = -1 if label is None else label
    label_N = label_F[media.folder_N]
    items = SourceTable.of_kind(media.paths, media.kind, pa.array(label_N, mask=label_N < 0))
    return SourceListing(items, classes if (label_N >= 0).any() else (), [], media.ignored, inferred=not defined)


def _list_labelled(tree: Tree, base: str, media: MediaFiles, texts: Mapping[str, str | None]) -> SourceListing:
    """List media files with the labels `texts`, numbers or class names; files without one have no class."""
    defined = find_classes([tree.root / base, tree.root]) or tree.classes
    used = {text for text in texts.values() if text is not None}
    names = defined or (() if all(map(is_number, used)) else tuple(sorted(used)))
    labels = {text: parse_label(text, names, f"{tree.root / base}", len(media.paths)) for text in used}
    label_N = [labels.get(texts.get(path) or "") for path in media.paths.to_pylist()]
    items = SourceTable.of_kind(media.paths, media.kind, pa.array(label_N, pa.int32()))
    classes = names or tuple(map(str, range(max((label for label in label_N if label is not None), default=-1) + 1)))
    return SourceListing(items, classes, [], media.ignored, inferred=not defined)
