"""Labels in WebDataset shards: the member `KEY.cls`, or `label` or `cls` in `KEY.json`, beside `KEY.jpg` or `KEY.mp4`.

A key is a member's path up to the first dot of its file name.
"""

import io
import itertools
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.archives.unpack import DamagedMember, unpack
from bevt_core.untrusted.files import unreadable
from pipeline.sources.archives.opened import open_for_members, volumes_beside
from pipeline.sources.archives.packed_file import PackedFile
from schemas.errors import UserError
from schemas.text.json_text import parse_json
from schemas.text.plain import shown

MAX_LABEL_BYTES = 64 << 10
LABEL_KEYS = ("label", "cls")


def labels_of_shards(root: AnyPath, packed: Mapping[str, PackedFile], sources: Iterable[str]) -> dict[str, str]:
    """source -> the text of its label, for those of `sources` that have one in their shard.

    Raises UserError for a label that cannot be read.
    """
    wanted: list[tuple[str, str]] = []  # (member with the label, source)
    for source in sources:
        folder, slash, name = source.rpartition("/")
        key = folder + slash + name.partition(".")[0]
        member = next((path for path in (f"{key}.cls", f"{key}.json") if path in packed), None)
        if member is not None and source in packed:
            wanted.append((member, source))
    wanted.sort(key=lambda pair: (packed[pair[0]].archive, packed[pair[0]].offset))
    labels = {}
    for path, data in _contents(root, packed, [member for member, _ in wanted]).items():
        text = _label(data, path, f"{root / packed[path].archive}: {path}")
        if text is not None:
            labels[path] = text
    return {source: labels[member] for member, source in wanted if member in labels}


def _contents(root: AnyPath, packed: Mapping[str, PackedFile], paths: Iterable[str]) -> dict[str, bytes]:
    """The content of small members, which are in the order of their archives; each archive is opened once."""
    contents: dict[str, bytes] = {}
    for archive, group in itertools.groupby(paths, lambda path: packed[path].archive):
        names = list(group)
        volumes = [root / name for name in volumes_beside(root, archive)]
        try:
            with open_for_members(volumes, packed[names[0]].method) as opened:
                for path in names:
                    contents[path] = _content(opened, packed[path], f"{root / archive}: {path}")
        except OSError as error:
            raise unreadable(error, root / archive) from None
    return contents


def _content(opened: BinaryIO, file: PackedFile, where: str) -> bytes:
    if file.num_bytes > MAX_LABEL_BYTES:
        raise UserError(f"{where} has {file.num_bytes} bytes, expected a label of at most {MAX_LABEL_BYTES}")
    target = io.BytesIO()
    try:
        unpack(opened, file.member, target)
    except DamagedMember as error:
        raise UserError(f"{where} is damaged: {error}; get the archive again") from None
    return target.getvalue()


def _label(data: bytes, path: str, where: str) -> str | None:
    """The label in the content of a `.cls` or `.json` member; None if the JSON has none."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8, expected a label") from None
    if path.endswith(".json"):
        content = parse_json(text, dict, where)
        value = next((content[key] for key in LABEL_KEYS if isinstance(content.get(key), int | str)), None)
        return None if value is None else str(value)
    if not text or "\n" in text:
        raise UserError(f"{where}: {shown(text)}, expected a label: one number, or one name")
    return text
