"""Kinetics-400: class folders, the official CSV files, or a list file, with either naming of the files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from bevt_core.dataset.source_list import SourceTable
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import Lines, read_csv, whole_number
from pipeline.sources.by_id import MediaIndex, find_annotation, names_of
from pipeline.sources.class_names import find_classes, parse_label
from pipeline.sources.folders import base_folder, check_split_folder, has_folder, list_class_folders
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import ListingBuilder, SourceListing, check_unique
from pipeline.sources.walk.tree import Tree

LIST = "list.tsv"  # names all videos of the root, for every split
REPLACEMENTS = "replacement_for_corrupted_k400"  # folder of the CVDF: whole videos instead of damaged ones


def list_k400(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List by `--list`, else by `list.tsv` or the split's official CSV in the root, else by class folders.

    Files are named `{id}.mp4` or `{id}_{start:06d}_{end:06d}.mp4`, in class folders or not; a list may use the other
    of the two names. A video in the folder REPLACEMENTS is used instead of that with the same id, with its class; with
    a `--list` or `list.tsv`, only if the list names it.
    """
    base = base_folder(tree, split)
    found = find_annotation(tree, [LIST, *_csv_names(split)])
    annotations: AnyPath | None = list_file or (tree.root / found if found else None)
    if annotations is None:
        check_split_folder(tree, split)
        listing = list_class_folders(tree, base, "video", no_classes=(REPLACEMENTS,))
        replacements = _replacements(tree, base)
        return listing if replacements is None else _replaced(listing, replacements)
    if _is_official(annotations):
        return _list_official(tree, base, annotations)
    listing = list_from_file(tree, annotations, ["", base] if base else [""], "video")
    return _found_by_id(tree, base, listing, annotations) if listing.missing else listing


def k400_separates_split(tree: Tree, split: str) -> bool:
    """Whether the root has an official CSV or a folder for the split alone, and no list of all videos."""
    if find_annotation(tree, [LIST]) is not None:
        return False
    return find_annotation(tree, _csv_names(split)) is not None or has_folder(tree, split)


def _csv_names(split: str) -> Sequence[str]:
    return (f"kinetics-400_{split}.csv", f"kinetics400_{split}.csv", f"{split}.csv")


def _is_official(list_file: AnyPath) -> bool:
    _, header = next(iter(Lines(list_file)), ("", ""))
    return "youtube_id" in [column.strip(' "') for column in header.split(",")]


def _list_official(tree: Tree, base: str, csv_file: AnyPath) -> SourceListing:
    """List by a CSV of `label,youtube_id,time_start,time_end,split[,is_cc]`; the test set has no label column."""
    rows = list(read_csv(csv_file, ["youtube_id", "time_start", "time_end"]))
    names = {row["label"] for _, row in rows if row.get("label")}
    defined = find_classes([csv_file.parent, tree.root])
    classes = defined or tuple(sorted(names))
    index, replacements = MediaIndex(tree, base), _replacements(tree, base)
    builder, used = ListingBuilder(tree), 0
    for where, row in rows:
        name, label = row["youtube_id"], row.get("label")
        start_s, end_s = (whole_number(row[column], where, column) for column in ("time_start", "time_end"))
        trimmed = f"{name}_{start_s:06d}_{end_s:06d}"
        expected = str(PurePosixPath(base, label or "", f"{trimmed}.mp4"))
        found = index.find([trimmed, name], folder=label)
        if replacements is not None and (whole := replacements.find([trimmed, name])):
            found, used = whole, used + 1
        builder.add(where, found, expected, "video", parse_label(label, classes, where) if label else None)
    return builder.listing(classes, inferred=not defined, warnings=[_used_instead(used)] if used else [])


def _replacements(tree: Tree, base: str) -> MediaIndex | None:
    """The videos in the folder of replacements: beside the classes, in the root, or where the CVDF's script puts it."""
    folders = (str(PurePosixPath(parent, REPLACEMENTS)) for parent in (base, "", "replacement"))
    found = next((folder for folder in folders if tree.is_folder(folder)), None)
    return None if found is None else MediaIndex(tree, found)


def _replaced(listing: SourceListing, replacements: MediaIndex) -> SourceListing:
    """Put a replacement in the place of each video that has one; leave out those without such a video or a class."""
    items, used = [], set[str]()
    for item in listing.items:
        path = PurePosixPath(item.source)
        if path.parent.name == REPLACEMENTS:
            continue
        other = replacements.find(names_of(path.stem))
        if other is not None and other not in used:
            used.add(other)
            item = item.model_copy(update={"source": other})
        items.append(item)
    unused = {path for paths in replacements.by_name.values() for path in paths} - used
    left_out = len(unused & {item.source for item in listing.items})
    unknown = f"; left out, since their class is unknown without the CVDF's CSV: {left_out}" if left_out else ""
    warnings = [_used_instead(len(used)) + unknown] if used or left_out else []
    return replace(listing, items=SourceTable.of(items), warnings=warnings)


def _used_instead(count: int) -> str:
    return f"videos of {REPLACEMENTS} used instead of those with the same id: {count}"


def _found_by_id(tree: Tree, base: str, listing: SourceListing, list_file: AnyPath) -> SourceListing:
    """Replace missing sources of the listing by those that exist under the other name."""
    index = MediaIndex(tree, base)
    lost = set(listing.missing)
    items, missing = [], []
    for item in listing.items:
        path = PurePosixPath(item.source)
        other = index.find([path.stem], folder=path.parent.name) if item.source in lost else item.source
        if other is None:
            missing.append(item.source)
        items.append(item if other is None else item.model_copy(update={"source": other}))
    check_unique(items, str(list_file))
    return replace(listing, items=items, missing=missing)
