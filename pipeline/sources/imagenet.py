"""ImageNet-1K: wnid trees, and the flat validation set with whichever file of its labels is there.

A label is the position of the wnid in sorted order. The devkit's ids (1..1000) are another order.
"""

import re
from pathlib import PurePosixPath

from bevt_core.objects import AnyPath
from pipeline.sources.by_id import annotation
from pipeline.sources.folders import list_classes
from pipeline.sources.listing import SourceListing, list_from_file, media_files, read_csv
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import SourceItem

_WNID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})")
KAGGLE_LABELS = "LOC_val_solution.csv"  # ImageId,PredictionString
WNID_LABELS = "imagenet_2012_validation_synset_labels.txt"  # a wnid per line, in the order of the files
DEVKIT_LABELS = "ILSVRC2012_validation_ground_truth.txt"  # an ILSVRC2012_ID per line; meta.mat says which wnid that is
SYNSETS = ("imagenet_synsets.txt", "LOC_synset_mapping.txt", "synset_words.txt")  # `wnid ...` per line


def list_imagenet(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """`<root>/<split>/<wnid>/*`, `<root>/<wnid>/*`, or `ILSVRC2012_val_*.JPEG` in one folder, or `--list`."""
    base = split if tree.is_folder(split) else ""
    if list_file is not None:
        return list_from_file(tree, list_file, ["", base] if base else [""], "image")
    folders = tree.folders(base)
    if any(_WNID.fullmatch(name) for name in folders):
        strangers = [name for name in folders if not _WNID.fullmatch(name)]
        if strangers:
            raise UserError(f"{tree.root / base}: a folder {strangers[0]!r} among the wnids; move it away")
        return list_classes(tree, base, "image")
    flat = [path for path, _ in media_files(tree.files(base), "image")[0] if _FLAT.fullmatch(PurePosixPath(path).stem)]
    if not flat:
        raise UserError(
            f"{tree.root / base}: neither folders named by wnid such as n01440764 nor ILSVRC2012_val_*.JPEG files; "
            "for other names use --dataset folder"
        )
    wnids = _wnids_of_validation(tree)
    classes = _all_wnids(tree) or tuple(sorted(set(wnids.values())))
    items = []
    for path in flat:
        wnid = wnids.get(PurePosixPath(path).stem)
        if wnid not in classes:
            raise UserError(f"{path}: its label is {wnid!r}, which is none of the {len(classes)} classes")
        items.append(SourceItem(source=path, kind="image", label=classes.index(wnid)))
    return SourceListing(items, classes)


def _wnids_of_validation(tree: Tree) -> dict[str, str]:
    """File name without suffix -> wnid."""
    kaggle = annotation(tree, [KAGGLE_LABELS])
    if kaggle is not None:
        rows = read_csv(tree.root / kaggle, ["ImageId", "PredictionString"])
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    by_line = annotation(tree, [WNID_LABELS])
    if by_line is not None:
        return _numbered((tree.root / by_line).read_text().split())
    devkit = annotation(tree, [DEVKIT_LABELS, f"ILSVRC2012_devkit_t12/data/{DEVKIT_LABELS}"])
    if devkit is not None:
        wnids = _devkit_wnids((tree.root / devkit).parent / "meta.mat")
        return _numbered([wnids[int(number)] for number in (tree.root / devkit).read_text().split()])
    raise UserError(
        f"{tree.root}: a flat validation set needs its labels: one of {KAGGLE_LABELS}, {WNID_LABELS}, or "
        f"{DEVKIT_LABELS} with meta.mat, in it or in annotations/"
    )


def _numbered(wnids: list[str]) -> dict[str, str]:
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(wnids, start=1)}


def _devkit_wnids(meta: AnyPath) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid, of the leaves."""
    if not meta.is_file():
        raise UserError(
            f"{meta}: not there; the devkit's ids are not in the order of sorted wnids, so its labels cannot be read "
            "without it"
        )
    from scipy.io import loadmat  # type: ignore[import-untyped]

    with meta.open("rb") as file:
        synsets = loadmat(file, squeeze_me=True)["synsets"]
    return {int(row[0]): str(row[1]) for row in synsets if int(row[4]) == 0}


def _all_wnids(tree: Tree) -> tuple[str, ...]:
    """Every class, from a synset list or the training folders; empty where there is neither."""
    found = annotation(tree, SYNSETS)
    if found is not None:
        lines = (tree.root / found).read_text().splitlines()
        return tuple(sorted(line.split()[0] for line in lines if _WNID.match(line)))
    folders = tree.folders("train") if tree.is_folder("train") else []
    return tuple(sorted(name for name in folders if _WNID.fullmatch(name)))
