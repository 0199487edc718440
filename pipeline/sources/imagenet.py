"""ImageNet-1K: folders named by wnid, and the flat validation set with one of its label files.

A label is the position of the wnid in sorted order. The devkit's ids (1..1000) are in a different order.
"""

import re
from pathlib import PurePosixPath

from bevt_core.media.kinds import count_suffixes
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import Lines, read_csv, read_mat, whole_number
from pipeline.sources.by_id import find_annotation
from pipeline.sources.folders import check_split_folder, list_class_folders, split_folder
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import SourceListing, media_files
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.text.plain import shown

_WNID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})")
KAGGLE_LABELS = "LOC_val_solution.csv"  # ImageId,PredictionString
WNID_LABELS = "imagenet_2012_validation_synset_labels.txt"  # a wnid per line, in the order of the files
DEVKIT_LABELS = "ILSVRC2012_validation_ground_truth.txt"  # an ILSVRC2012_ID per line; meta.mat maps it to a wnid
SYNSETS = ("imagenet_synsets.txt", "LOC_synset_mapping.txt", "synset_words.txt")  # `wnid ...` per line


def list_imagenet(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List `<root>/<split>/<wnid>/*`, `<root>/<wnid>/*`, `ILSVRC2012_val_*.JPEG` in one folder, or by `--list`."""
    base = split_folder(tree, split)
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "image")
    check_split_folder(tree, split)
    folders = tree.folders(base)
    if any(_WNID.fullmatch(name) for name in folders):
        others = [name for name in folders if not _WNID.fullmatch(name)]
        if others:
            raise UserError(f"{tree.root / base}: a folder {others[0]!r} among the wnids; move it away")
        return list_class_folders(tree, base, "image")
    files = list(tree.files(base))
    flat = [path for path in media_files(files, "image").paths.to_pylist() if _FLAT.fullmatch(PurePosixPath(path).stem)]
    if not flat:
        raise UserError(
            f"{tree.root / base}: neither folders named by wnid such as n01440764 nor ILSVRC2012_val_*.JPEG files; "
            "for other names use --dataset folder"
        )
    labels_file, wnids = _wnids_of_validation(tree)
    classes = _all_wnids(tree) or tuple(sorted(set(wnids.values())))
    labels = {wnid: label for label, wnid in enumerate(classes)}
    items = []
    for path in flat:
        wnid = wnids.get(PurePosixPath(path).stem)
        if wnid is None:
            raise UserError(f"{labels_file}: no label for {path}; the file is incomplete, get it again")
        if wnid not in labels:
            raise UserError(
                f"{labels_file}: {path} has the label {shown(wnid)}, expected one of the {len(classes)} classes"
            )
        items.append(SourceItem(source=path, kind="image", label=labels[wnid]))
    return SourceListing(items, classes, ignored=count_suffixes(sorted(set(files) - set(flat))))


def _wnids_of_validation(tree: Tree) -> tuple[AnyPath, dict[str, str]]:
    """The file of labels, and its content: a picture's file name without suffix -> wnid."""
    kaggle = find_annotation(tree, [KAGGLE_LABELS])
    if kaggle is not None:
        path = tree.root / kaggle
        rows = read_csv(path, ["ImageId", "PredictionString"])
        return path, {row["ImageId"]: _wnid(where, row["PredictionString"]) for where, row in rows}
    by_line = find_annotation(tree, [WNID_LABELS])
    if by_line is not None:
        path = tree.root / by_line
        return path, _numbered([_wnid(where, line) for where, line in Lines(path)])
    devkit = find_annotation(tree, [DEVKIT_LABELS, f"ILSVRC2012_devkit_t12/data/{DEVKIT_LABELS}"])
    if devkit is not None:
        path = tree.root / devkit
        wnids = _devkit_wnids(path.parent / "meta.mat")
        numbers = [(where, whole_number(line.strip(), where, "the id")) for where, line in Lines(path)]
        unknown = [(where, number) for where, number in numbers if number not in wnids]
        if unknown:
            where, number = unknown[0]
            raise UserError(f"{where}: the id {number}, expected one of the {len(wnids)} in meta.mat")
        return path, _numbered([wnids[number] for _, number in numbers])
    raise UserError(
        f"{tree.root}: the flat validation set has no labels; put {KAGGLE_LABELS}, {WNID_LABELS}, or "
        f"{DEVKIT_LABELS} with meta.mat into it or into annotations/"
    )


def _numbered(wnids: list[str]) -> dict[str, str]:
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(wnids, start=1)}


def _devkit_wnids(meta: AnyPath) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid, for the leaves of the hierarchy."""
    if not meta.is_file():
        raise UserError(
            f"{meta}: no such file; copy it from the devkit, whose ids are not in the order of sorted wnids, so its "
            "labels cannot be read without it"
        )
    synsets = read_mat(meta, "synsets")
    try:
        return {int(row[0]): str(row[1]) for row in synsets if int(row[4]) == 0}
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{meta}: the synsets are not in the form of ILSVRC2012's devkit ({shown(str(error))}); copy it from there"
        ) from None


def _all_wnids(tree: Tree) -> tuple[str, ...]:
    """The wnids of all classes, from a synset list or the training folders; empty if there is neither."""
    found = find_annotation(tree, SYNSETS)
    if found is not None:
        return tuple(sorted({_wnid(where, line) for where, line in Lines(tree.root / found)}))
    folders = tree.folders("train") if tree.is_folder("train") else []
    return tuple(sorted(name for name in folders if _WNID.fullmatch(name)))


def _wnid(where: str, text: str) -> str:
    """The wnid at the beginning of a text."""
    first = text.split(maxsplit=1)[:1]
    if not first or not _WNID.fullmatch(first[0]):
        raise UserError(f"{where}: {shown(text)}, expected a wnid such as n01440764 at the beginning")
    return first[0]
