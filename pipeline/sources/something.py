"""Something-Something-V2: `{id}.webm` or folders of frames, with the official JSON files."""

from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import read_json, read_json_rows, read_rows, whole_number
from pipeline.sources.by_id import MediaIndex, find_annotation
from pipeline.sources.folders import base_folder
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import ListingBuilder, SourceListing
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.text.json_text import typed
from schemas.text.plain import shown

MISSING_SHARE = 0.01  # above it, a warning: the official archive is complete
VOLUMES = (
    "the site gives the archive in two volumes (20bn-something-something-v2-00 and -01), formerly in twenty (-00 to "
    "-19, each in a zip): put all of them into the root, out of the zips, or unpack them together with "
    "`cat 20bn-something-something-v2-?? | tar -xz`"
)
FRAME_FOLDERS = ("rawframes", "frames", "20bn-something-something-v2-frames")


def list_ssv2(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List by `{split}.json` (ids, templates) and `labels.json` (classes), or by `--list` (`id [frames] label` lines).

    Templates contain [brackets], the keys of labels.json do not, and its values are strings. Test rows have no
    template; their labels come from `test-answers.csv` if it exists.
    """
    base = base_folder(tree, split)
    folders = [name for name in FRAME_FOLDERS if tree.is_folder(name)]
    if list_file is not None:
        return list_from_file(tree, list_file, ["", *folders, *([base] if base else [])], "video")
    rows_file = tree.root / _required_annotation(tree, split)
    labels = _read_labels(tree.root / _required_annotation(tree, "labels"))
    answers = _test_answers(tree) if split == "test" else {}
    index = MediaIndex(tree, base, folders[0] if folders else None)
    builder = ListingBuilder(tree)
    for where, row in read_json_rows(rows_file, {}):
        name = row.get("id")
        name = str(name) if isinstance(name, int) else typed(name, str, where, "id")
        expected = f"{base}/{name}.webm" if base else f"{name}.webm"
        template = row.get("template") or answers.get(name)
        label = None if template is None else _label(typed(template, str, where, "template"), labels, where)
        builder.add(where, index.find([name]), expected, "video", label)
    listing = builder.listing(tuple(labels))
    if not folders and len(listing.missing) > MISSING_SHARE * len(listing.items):
        listing.warnings.append(
            f"{len(listing.missing)} of the {len(listing.items)} videos in {rows_file} are missing; {VOLUMES}"
        )
    return listing


def _read_labels(path: AnyPath) -> dict[str, int]:
    """Class name -> label, sorted by label."""
    labels = {
        name: whole_number(str(label), str(path), f"the label of {shown(name)}")
        for name, label in read_json(path, dict).items()
    }
    labels = dict(sorted(labels.items(), key=lambda item: item[1]))
    if list(labels.values()) != list(range(len(labels))):
        raise UserError(f"{path}: labels are not 0..{len(labels) - 1}; get the official file")
    return labels


def _required_annotation(tree: Tree, what: str) -> str:
    names = [f"something-something-v2-{what}.json", f"{what}.json"]
    if what in ("val", "validation"):
        names = ["something-something-v2-validation.json", "validation.json", "val.json"]
    found = find_annotation(tree, names)
    if found is None:
        raise UserError(
            f"{tree.root}: none of {', '.join(names)} in it or in annotations/ or labels/; "
            "get the official files, or give `id label` lines with --list"
        )
    return found


def _label(template: str, labels: dict[str, int], where: str) -> int:
    name = template.replace("[", "").replace("]", "")
    if name not in labels:
        raise UserError(
            f"{where}: the template {shown(template)} is not a key of labels.json; get both files of the same version"
        )
    return labels[name]


def _test_answers(tree: Tree) -> dict[str, str]:
    """id -> class name, read from lines such as `1420;Throwing something`."""
    found = find_annotation(tree, ["test-answers.csv"])
    answers = {}
    for where, row in read_rows(tree.root / found, delimiter=";") if found is not None else ():
        if len(row) != 2:
            raise UserError(f"{where}: {len(row)} fields, expected 2: an id and a class, as in 1420;Throwing something")
        answers[row[0]] = row[1]
    return answers
