"""Kinetics-400: class folders, or a list file."""

from pathlib import Path

from pipeline.sources.folders import base_folder, list_classes
from pipeline.sources.listing import SourceListing, list_from_file
from pipeline.sources.tree import Tree


def list_k400(tree: Tree, split: str, list_file: Path | None) -> SourceListing:
    """`--list`, else `<root>/list.tsv`, else class folders in the root, `videos/` or `<split>/`."""
    base = base_folder(tree, split)
    if list_file is None and tree.is_file("list.tsv"):
        list_file = tree.root / "list.tsv"
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "video")
    return list_classes(tree, base, "video")
