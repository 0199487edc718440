"""Which files are archives, and the folder to which the members of each belong.

Members have the paths that they get when the archive is unpacked in the usual way, so that lists, splits and class
folders are the same for packed and for unpacked data:

- `ILSVRC2012_img_train.tar` and the other archives of ImageNet belong in the folder of their split;
- an archive whose members share one folder, and one of a numbered series, such as `part_0.tar` or `train-000017.tar`,
  is unpacked where it is;
- Parquet files of the hub, such as `train-00000-of-00026.parquet`, belong in folders such as `train/00000`;
- any other archive is unpacked into a folder with its name: `abseiling.tar` into `abseiling`.
"""

import functools
import re
from collections.abc import Iterable, Mapping

from bevt_core.media.kinds import is_hidden
from schemas.errors import UserError
from schemas.text.plain import shown

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip", ".parquet")
BY_RANGES = (".tar", ".zip")  # read by ranges, so that they may be on an object store
SSV2 = "20bn-something-something-v2"  # its volumes `-00` to `-19` are a .tar.gz
OFFICIAL = {"ILSVRC2012_img_train": "train", "ILSVRC2012_img_val": "val", "ILSVRC2012_img_test_v10102019": "test"}
_VOLUME = re.compile(
    rf"(.+(?:\.tar\.gz|\.tgz|\.tar|\.zip)|{SSV2})[-._]?(?:part[-._]?)?(\d{{1,4}}|[a-z]{{2,3}})", re.IGNORECASE
)
_LONE = re.compile(rf"^{SSV2}-|[-._]\d{{2,4}}$|part[-._]?(\d+|a{{2,3}})$|\.a{{2,3}}$", re.IGNORECASE)
_HUB = re.compile(r"(\w[\w.]*(?:-\w[\w.]*)*)-(\d{5})-of-\d{5}(?:-[0-9a-f]{16})?")
_SERIES = re.compile(r"(.*[^a-z])?(part|shard|chunk)s?[-_. ]?\d+|(.*[-_.])?\d{4,}", re.IGNORECASE)


def is_archive(name: str) -> bool:
    """Whether a file is an archive that can be read, by its name."""
    return name.lower().endswith(SUFFIXES)


def volume_of(name: str) -> tuple[str, int] | None:
    """(archive, number) for a volume of a divided archive, such as `x.tar.gz.00`, `x.tar.aa` and those of SSv2."""
    found = None if is_archive(name) else _VOLUME.fullmatch(name)
    if found is None:
        return None
    text = found[2].lower()
    number = int(text) if text.isdigit() else functools.reduce(lambda n, c: 26 * n + ord(c) - ord("a"), text, 0)
    return (f"{SSV2}.tar.gz" if found[1] == SSV2 else found[1]), number


def archives_among(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The archives in a folder of files `names`, each with its files: one, or its volumes in order.

    A divided archive has its usual name, such as `x.tar.gz`. Raises UserError for missing and double volumes.
    """
    found: dict[str, tuple[str, ...]] = {}
    volumes: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if is_archive(name):
            found[name] = (name,)
        elif (volume := volume_of(name)) is not None:
            volumes.setdefault(volume[0], []).append((volume[1], name))
    for archive, parts in volumes.items():
        parts.sort()
        numbers = [number for number, _ in parts]
        if numbers[0] > 1 or len(parts) == 1:  # one volume, or another kind of suffix, such as .tar.xz
            continue
        if numbers != list(range(numbers[0], numbers[0] + len(parts))) or archive in found:
            raise UserError(
                f"{parts[0][1]}: {len(parts)} volumes of {archive} with the numbers {shown(numbers)}, expected each of "
                "them once, and no other file of that name; get those that are missing"
            )
        found[archive] = tuple(name for _, name in parts)
    return found


def lone_volumes(names: Iterable[str]) -> list[str]:
    """Those of the files `names` that are the only volume of a divided archive, and so cannot be read.

    Names such as `x.tar.xz` and `x.zip.1` are none: they mean something else.
    """
    volumes: dict[str, list[str]] = {}
    for name in names:
        if (volume := volume_of(name)) is not None:
            volumes.setdefault(volume[0], []).append(name)
    return [each[0] for each in volumes.values() if len(each) == 1 and _LONE.search(each[0])]


def warn_of_archives(ignored: Mapping[str, int], root: object) -> list[str]:
    """Warnings about archives among the unused files below an object store's `root`, counted by suffix."""
    count = sum(number for suffix, number in ignored.items() if suffix in (".gz", ".tgz"))
    return [f"{root}: {count} compressed tars are not read there; copy them to a file system"] if count else []


def stem_of(name: str) -> str:
    """The name of an archive without its suffix."""
    return next(name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix))


def is_visible(member: str) -> bool:
    """Whether a member's path has no hidden file or folder in it."""
    return not any(is_hidden(part) for part in member.split("/"))


def folder_of_members(archive: str, members: Iterable[str], parent: str = "") -> str:
    """The folder, beside the file `archive` in `parent`, to which its visible `members` belong; empty: `parent`."""
    stem = stem_of(archive)
    if stem in OFFICIAL:
        return "" if parent == OFFICIAL[stem] else OFFICIAL[stem]
    hub = hub_shard(archive)
    if hub is not None:
        return "/".join(hub)
    tops = {top if slash else "" for top, slash, _ in (name.partition("/") for name in members)}
    shares_folder = len(tops) == 1 and "" not in tops
    return "" if shares_folder or _SERIES.fullmatch(stem) else stem


def hub_shard(archive: str) -> tuple[str, str] | None:
    """The split and the number of a Parquet file of the hub, such as `train-00000-of-00026.parquet`."""
    found = _HUB.fullmatch(stem_of(archive)) if archive.lower().endswith(".parquet") else None
    return None if found is None else (found[1], found[2])


def possible_folders(archive: str) -> set[str]:
    """All results that `folder_of_members` may have for the archive."""
    stem = stem_of(archive)
    return {"", OFFICIAL.get(stem, stem)}
