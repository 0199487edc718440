"""Diving48, with version 2 of its labels only: version 1 is known to be wrong."""

from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import read_json, read_json_rows
from pipeline.sources.by_id import MediaIndex, find_annotation
from pipeline.sources.folders import base_folder
from pipeline.sources.listing import ListingBuilder, SourceListing
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.text.json_text import typed
from schemas.text.plain import shown

V1_ONLY_LABEL = 30  # occurs in neither file of version 2


def list_diving48(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """Read `Diving48_V2_{split}.json` and `Diving48_vocab.json` in the root; files `{vid_name}.mp4` anywhere below it.

    The classes are the 48 of the vocabulary, although only 47 occur. Raises UserError for labels of version 1,
    recognised by the file's name and by its content.
    """
    rows_file = list_file or _find(tree, f"Diving48_V2_{split}.json")
    if "V2" not in rows_file.name:
        raise UserError(
            f"{rows_file}: expected version 2 (Diving48_V2_{split}.json); the labels of version 1 are wrong"
        )
    rows = list(read_json_rows(rows_file, {"vid_name": str, "label": int}))
    if any(row["label"] == V1_ONLY_LABEL for _, row in rows):
        raise UserError(
            f"{rows_file}: label {V1_ONLY_LABEL} occurs only in version 1, whose labels are wrong; get version 2"
        )
    classes = _read_classes(_find(tree, "Diving48_vocab.json"))
    base = "rgb" if tree.is_folder("rgb") else base_folder(tree, split)
    index = MediaIndex(tree, base)
    builder = ListingBuilder(tree)
    for where, row in rows:
        name, label = row["vid_name"], row["label"]
        if not 0 <= label < len(classes):
            raise UserError(
                f"{where}: label {shown(label)}, expected 0 to {len(classes) - 1}, the classes of the vocabulary"
            )
        expected = f"{base}/{name}.mp4" if base else f"{name}.mp4"
        builder.add(where, index.find([name]), expected, "video", label)
    return builder.listing(classes)


def _read_classes(vocabulary: AnyPath) -> tuple[str, ...]:
    """The class names: the words of each entry, joined."""
    names = []
    for number, words in enumerate(read_json(vocabulary, list), start=1):
        where = f"{vocabulary}, entry {number}"
        names.append(" ".join(typed(word, str, where, "a word") for word in typed(words, list, where)))
    return tuple(names)


def _find(tree: Tree, name: str) -> AnyPath:
    found = find_annotation(tree, [name])
    if found is not None:
        return tree.root / found
    old = find_annotation(tree, [name.replace("_V2", "")]) if "_V2" in name else None
    if old is not None:
        raise UserError(f"{tree.root / old} has the labels of version 1, which are wrong; get {name}")
    raise UserError(f"{tree.root}: {name} is neither in it nor in annotations/; put it there")
