"""Something-Something-V2: `{id}.webm` or folders of frames, with the official JSON files."""

import csv
import json

from bevt_core.objects import AnyPath
from pipeline.sources.by_id import MediaIndex, annotation
from pipeline.sources.folders import base_folder
from pipeline.sources.listing import SourceListing, check_unique, list_from_file
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import SourceItem

FRAME_FOLDERS = ("rawframes", "frames", "20bn-something-something-v2-frames")


def list_ssv2(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """Ids and templates from `{split}.json`, classes from `labels.json`; or `--list` with `id [frames] label` lines.

    Templates carry [brackets], the keys of labels.json do not, and its values are strings. Test rows have no template;
    their labels come from `test-answers.csv` where that is there.
    """
    base = base_folder(tree, split)
    folders = [name for name in FRAME_FOLDERS if tree.is_folder(name)]
    if list_file is not None:
        return list_from_file(tree, list_file, ["", *folders, *([base] if base else [])], "video")
    rows_file = _annotation(tree, split)
    labels_file = _annotation(tree, "labels")
    labels = {name: int(label) for name, label in json.loads((tree.root / labels_file).read_text()).items()}
    classes = tuple(sorted(labels, key=lambda name: labels[name]))
    if [labels[name] for name in classes] != list(range(len(classes))):
        raise UserError(f"{tree.root / labels_file}: labels are not 0..{len(classes) - 1}")
    answers = _test_answers(tree) if split == "test" else {}
    index = MediaIndex(tree, base, folders[0] if folders else None)
    items, missing = [], []
    for row in json.loads((tree.root / rows_file).read_text()):
        name = str(row["id"])
        path = index.find([name])
        if path is None:
            path = f"{base}/{name}.webm" if base else f"{name}.webm"
            missing.append(path)
        template = row.get("template") or answers.get(name)
        items.append(SourceItem(source=path, kind="video", label=_label(template, labels, rows_file)))
    check_unique(items, rows_file)
    return SourceListing(items, classes, missing)


def _annotation(tree: Tree, what: str) -> str:
    names = [f"something-something-v2-{what}.json", f"{what}.json"]
    if what in ("val", "validation"):
        names = ["something-something-v2-validation.json", "validation.json", "val.json"]
    found = annotation(tree, names)
    if found is None:
        raise UserError(
            f"{tree.root}: none of {', '.join(names)} in it or in annotations/ or labels/; "
            "get the official files, or give `id label` lines with --list"
        )
    return found


def _label(template: str | None, labels: dict[str, int], where: str) -> int | None:
    if template is None:
        return None
    name = template.replace("[", "").replace("]", "")
    if name not in labels:
        raise UserError(f"{where}: the template {template!r} is no key of labels.json; the two are not of one version")
    return labels[name]


def _test_answers(tree: Tree) -> dict[str, str]:
    """id -> class name, from lines `1420;Throwing something`."""
    found = annotation(tree, ["test-answers.csv"])
    if found is None:
        return {}
    with (tree.root / found).open(newline="", encoding="utf-8-sig") as file:
        return {row[0]: row[1] for row in csv.reader(file, delimiter=";") if len(row) == 2}
