"""Diving48, version 2 of its labels only: version 1 is known to be wrong."""

import json

from bevt_core.objects import AnyPath
from pipeline.sources.by_id import MediaIndex, annotation
from pipeline.sources.folders import base_folder
from pipeline.sources.listing import SourceListing, check_unique
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import SourceItem

V1_ONLY_LABEL = 30  # occurs in neither file of version 2


def list_diving48(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """`Diving48_V2_{split}.json` and `Diving48_vocab.json` in the root; files `{vid_name}.mp4` anywhere below it.

    The classes are the 48 of the vocabulary, although only 47 occur. Raises UserError for labels of version 1, told by
    the file's name and by its content.
    """
    rows_file = list_file or _find(tree, f"Diving48_V2_{split}.json")
    if "V2" not in rows_file.name:
        raise UserError(f"{rows_file}: not a file of version 2 (Diving48_V2_{split}.json); version 1 has wrong labels")
    rows = json.loads(rows_file.read_text())
    if any(row["label"] == V1_ONLY_LABEL for row in rows):
        raise UserError(f"{rows_file}: label {V1_ONLY_LABEL} occurs, so these are labels of version 1, renamed")
    classes = tuple(" ".join(words) for words in json.loads(_find(tree, "Diving48_vocab.json").read_text()))
    base = "rgb" if tree.is_folder("rgb") else base_folder(tree, split)
    index = MediaIndex(tree, base)
    items, missing = [], []
    for row in rows:
        path = index.find([row["vid_name"]])
        if path is None:
            path = f"{base}/{row['vid_name']}.mp4" if base else f"{row['vid_name']}.mp4"
            missing.append(path)
        items.append(SourceItem(source=path, kind="video", label=row["label"]))
    check_unique(items, str(rows_file))
    return SourceListing(items, classes, missing)


def _find(tree: Tree, name: str) -> AnyPath:
    found = annotation(tree, [name])
    if found is not None:
        return tree.root / found
    old = annotation(tree, [name.replace("_V2", "")]) if "_V2" in name else None
    if old is not None:
        raise UserError(f"{tree.root / old} has the labels of version 1, which are wrong; get {name}")
    raise UserError(f"{tree.root}: no {name} in it or in annotations/")
