"""List the sources of a data set and their classes: `SOURCES[name](tree, split, list_file)`.

A listing includes its class map, since label maps differ: two public ones of Kinetics-400 agree on none of its classes.
"""

from dataclasses import replace
from pathlib import Path

from bevt_core.console.terminal import note
from bevt_core.dataset.source_list import SourceTable
from bevt_core.storage.descriptions import is_our_output, what_is
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.untrusted.files import unreadable
from pipeline.sources.archives.names import is_archive, warn_of_archives
from pipeline.sources.archives.tree import PackedObjectTree, PackedTree
from pipeline.sources.diving import list_diving48
from pipeline.sources.folders import has_folder, list_folder, split_folders
from pipeline.sources.howto import list_howto100m
from pipeline.sources.imagenet import list_imagenet
from pipeline.sources.kinetics import k400_separates_split, list_k400
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import SourceListing, label_by, read_parquet_list
from pipeline.sources.something import list_ssv2
from pipeline.sources.stored import choose_stored
from pipeline.sources.walk.kept_folders import forget_folders
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.recipes.loading import nearest


def list_list(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List the sources named by `--list`: `path label` lines, or a Parquet file written by `bevt scan`."""
    if list_file is None:
        raise UserError("dataset list needs `list_file`, a file with `path label` on each line")
    return list_from_file(tree, list_file, [split, ""] if tree.is_folder(split) else [""], "video")


SOURCES = {
    "k400": list_k400,
    "ssv2": list_ssv2,
    "diving48": list_diving48,
    "imagenet": list_imagenet,
    "howto100m": list_howto100m,
    "folder": list_folder,
    "list": list_list,
}
# data sets whose official lists name the files of every split in one root -> the split to test on
TEST_SPLITS = {"ssv2": "validation", "diving48": "test"}

__all__ = [
    "SOURCES",
    "SourceListing",
    "check_dataset",
    "check_found",
    "choose_stored",
    "forget_folders",
    "has_split",
    "label_by",
    "list_files",
    "list_sources",
    "no_folder",
    "note_unused_split",
    "separates_split",
    "split_to_test",
    "with_prefix",
]


def list_sources(
    dataset: str,
    root: str | AnyPath,
    split: str,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
) -> SourceListing:
    """List the sources of `split` under `root`, in an order that depends only on their names.

    Files that a list names but that do not exist are items too (and in `missing`): a job records them as rejected.
    Files that are not sources are counted in `ignored`; `warnings` describe likely mistakes in the list. Raises
    UserError for an unknown data set, a missing root, an unreadable list, a folder without permission, and for links
    and lines that lead out of the root, unless `allow_outside`.
    """
    check_dataset(dataset)
    try:
        return _listed(dataset, as_path(root), split, None if list_file is None else as_path(list_file), allow_outside)
    except PermissionError as error:
        raise unreadable(error, as_path(str(error.filename or root))) from None


def list_files(
    dataset: str, root: AnyPath, split: str, list_file: str | AnyPath | None, allow_outside: bool
) -> SourceListing:
    """`list_sources` for readers that open sources by their paths. Raises UserError if some are inside archives."""
    listing = list_sources(dataset, root, split, list_file, allow_outside)
    if listing.packed:
        raise UserError(
            f"`root` {root}: {len(listing.packed)} of its {len(listing.items)} sources are in archives, which only "
            "`bevt scan` and `bevt tokenize` read; store their frames with `bevt tokenize --frames-only` and give "
            "`frames`, or unpack them"
        )
    return listing


def with_prefix(listing: SourceListing, prefix: str | None) -> SourceListing:
    """The listing with `PREFIX/` before its sources and its class names, so that several data sets fit into one store.

    None changes nothing.
    """
    if prefix is None:
        return listing
    items = SourceTable.of(listing.items).with_prefix(f"{prefix}/")
    classes, missing = ([f"{prefix}/{name}" for name in names] for names in (listing.classes, listing.missing))
    packed = {f"{prefix}/{source}": files for source, files in listing.packed.items()}
    return replace(listing, items=items, classes=tuple(classes), missing=missing, packed=packed)


def check_dataset(dataset: str) -> None:
    """Raise UserError, with the nearest name, for an unknown data set."""
    if dataset not in SOURCES:
        raise UserError(f"no dataset {dataset!r}; {nearest(dataset, list(SOURCES))}known: {', '.join(SOURCES)}")


def _listed(dataset: str, root: AnyPath, split: str, list_file: AnyPath | None, allow_outside: bool) -> SourceListing:
    if not root.is_dir():
        raise UserError(f"`root` {root}: {no_folder(root)}; give the folder that contains the files of {dataset!r}")
    if list_file is not None and not list_file.is_file():
        what = "a folder, expected a file" if list_file.is_dir() else "no such file"
        raise UserError(f"`list_file` {list_file}: {what}")
    tree = _tree(root, allow_outside)
    if list_file is not None and list_file.name.endswith(".parquet"):
        listing = read_parquet_list(tree, list_file)
    else:
        listing = SOURCES[dataset](tree, split, list_file)
    tree.keep()
    if not listing.items and list_file is not None:
        raise UserError(
            f"`list_file` {list_file}: names no files; expected `path label` lines, or the data set's official list"
        )
    if not listing.items and is_our_output(root):
        raise UserError(f"`root` {root}: {what_is(root)}; expected the folder that contains the files of {dataset!r}")
    if not listing.items:
        hint = f"; {listing.ignored_note}" if listing.ignored else ""
        raise UserError(f"`root` {root}: no videos or pictures for dataset {dataset!r}, split {split!r}{hint}")
    packed = tree.packed(item.source for item in listing.items) if tree.has_archives else {}
    not_read = [] if isinstance(root, Path) else warn_of_archives(listing.ignored, root)
    return replace(listing, packed=packed, warnings=[*listing.warnings, *tree.warnings, *not_read])


def no_folder(root: AnyPath) -> str:
    """Describe `root`, which is not a folder, for an error."""
    if root.is_file():
        return "an archive, expected its folder" if is_archive(root.name) else "a file, expected a folder"
    return "no such folder"


def check_found(listing: SourceListing, root: AnyPath, list_file: str | AnyPath | None) -> None:
    """Raise UserError if a list names files and none of them exists."""
    if listing.missing and len(listing.missing) == len(listing.items):
        named = f"`list_file` {list_file}" if list_file is not None else f"`root` {root}: its list of the split"
        likely = "".join(f". {warning}" for warning in listing.warnings)
        raise UserError(
            f"{named}: none of the {len(listing.items)} files that it names exists, such as "
            f"{root / listing.missing[0]}; check `root` and the paths in the list{likely}"
        )


def separates_split(dataset: str, root: AnyPath, split: str, allow_outside: bool = False) -> bool:
    """Whether `root` has a folder or an official list for `split` alone."""
    tree = _tree(root, allow_outside)
    return k400_separates_split(tree, split) if dataset == "k400" else has_folder(tree, split)


def has_split(dataset: str, root: AnyPath, split: str, allow_outside: bool = False) -> bool:
    """Whether `split` selects only some of the files below `root`, by official lists or as in `separates_split`."""
    return dataset in TEST_SPLITS or separates_split(dataset, root, split, allow_outside)


def note_unused_split(
    dataset: str, root: AnyPath, split: str | None, list_file: str | None, allow_outside: bool = False
) -> None:
    """Note that a `split` which the user gave is only recorded: `root` has no folders or lists of splits."""
    if split is None or list_file is not None or dataset not in SOURCES or not root.is_dir():
        return
    if not has_split(dataset, root, split, allow_outside) and not split_folders(_tree(root, allow_outside)):
        note(f"{root} has no folders for splits: all of its files are used, and split {split!r} is only recorded")


def split_to_test(dataset: str) -> str:
    """The default split of a data set to test on."""
    return TEST_SPLITS.get(dataset, "val")


def _tree(root: AnyPath, allow_outside: bool) -> PackedTree:
    return PackedTree(root, allow_outside) if isinstance(root, Path) else PackedObjectTree(root)
