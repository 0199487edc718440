"""Kinetics-400: class folders, the official CSV files, or a list file, with either naming of the files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import Lines, read_csv, whole_number
from pipeline.sources.by_id import MediaIndex, find_annotation
from pipeline.sources.class_names import find_classes, parse_label
from pipeline.sources.folders import base_folder, check_split_folder, has_folder, list_class_folders
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import ListingBuilder, SourceListing, check_unique
from pipeline.sources.walk.tree import Tree

LIST = "list.tsv"  # names all videos of the root, for every split


def list_k400(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List by `--list`, else by `list.tsv` or the split's official CSV in the root, else by class folders.

    Files are named `{id}.mp4` or `{id}_{start:06d}_{end:06d}.mp4`, in class folders or not; a list may use the other
    of the two names.
    """
    base = base_folder(tree, split)
    found = find_annotation(tree, [LIST, *_csv_names(split)])
    annotations: AnyPath | None = list_file or (tree.root / found if found else None)
    if annotations is None:
        check_split_folder(tree, split)
        return list_class_folders(tree, base, "video")
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
    index = MediaIndex(tree, base)
    builder = ListingBuilder(tree)
    for where, row in rows:
        name, label = row["youtube_id"], row.get("label")
        start_s, end_s = (whole_number(row[column], where, column) for column in ("time_start", "time_end"))
        trimmed = f"{name}_{start_s:06d}_{end_s:06d}"
        expected = str(PurePosixPath(base, label or "", f"{trimmed}.mp4"))
        found = index.find([trimmed, name], folder=label)
        builder.add(where, found, expected, "video", parse_label(label, classes, where) if label else None)
    return builder.listing(classes, inferred=not defined)


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
