"""Folders with one picture per frame: which of the files are the frames, and in which order.

All frames share one name pattern with a number in it. The folder may also contain optical flow, masks, a cover or the
same frames in a second format. Files whose names begin with a dot are ignored.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bevt_core.media.errors import MediaError, one_line
from bevt_core.media.kinds import kind_of, suffix_of
from bevt_core.media.stills import read_picture
from bevt_core.storage.files import sizes_in
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from schemas.errors import StorageError

# Pictures derived from the frames: `flow_x_00001.jpg`, `x_0001.jpg`, `depth_1.png`.
_DERIVED = re.compile(r"(^|_)(flow|depth|mask|seg|thumb|thumbnail|cover|preview)(_|\d|#|$)|^[xyuv][_-]?#$")
# Order of preference. JPEG comes first: a PNG next to a JPEG of the same name is more often a mask than a better copy.
_SUFFIXES = (".jpg", ".jpeg", ".png")
_ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # last bytes of a complete file
SHOWN = 4  # name patterns listed in a message

_NUMBER = re.compile(r"([0-9]+)")
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class _Pattern:
    """The pictures with one name pattern, such as `img_#.jpg`."""

    text: str  # the name without its suffix, `#` for each number
    suffix: str
    files: dict[Numbers, str]
    twins: list[str]  # names whose number an earlier file already has

    @property
    def name(self) -> str:
        return self.text + self.suffix

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """Sort key: the pattern that most likely is the video's frames comes first."""
        preference = _SUFFIXES.index(self.suffix) if self.suffix in _SUFFIXES else len(_SUFFIXES)
        return bool(_DERIVED.search(self.text.lower())), -len(self.files), preference, self.name


def frames_among(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (frames, notes): the frames among the files `names` of a folder, in order, and anything unusual.

    Raises MediaError if no file is a numbered picture, or if it is unclear which files are the frames.
    """
    pictures = [name for name in names if not name.startswith(".") and kind_of(name, gif="image") == "image"]
    patterns = sorted(_patterns(pictures), key=lambda pattern: pattern.order)
    if not patterns:
        unnumbered = f"{len(pictures)} pictures, none with a number in its name" if pictures else "no pictures"
        raise MediaError("open", "no-frames", f"{unnumbered} in the folder")
    chosen, *others = patterns
    for other in others:
        same_text = other.text.lower() == chosen.text.lower()
        if same_text and not other.files.keys() <= chosen.files.keys():
            raise _mixed(f"some frames are {chosen.name} and others {other.name}")
        if not same_text and other.order[0] == chosen.order[0] and 2 * len(other.files) > len(chosen.files):
            counts = f"{len(chosen.files)} pictures {chosen.name} and {len(other.files)} {other.name}"
            raise _mixed(f"{counts}, so it is unclear which are the frames")
    if chosen.twins:
        raise _mixed(f"another file has the same number as {chosen.twins[0]}")
    frames = [chosen.files[numbers] for numbers in sorted(chosen.files)]
    left_out = sorted(set(pictures) - set(frames))
    notes = []
    if left_out:
        kinds = list(dict.fromkeys(_NUMBER.sub("#", name) for name in left_out))
        shown = ", ".join(kinds[:SHOWN]) + (", ..." if len(kinds) > SHOWN else "")
        notes.append(f"pictures that are not frames: {len(left_out)} ({shown})")
    gaps = _gaps(sorted(chosen.files))
    if gaps:
        notes.append(f"gaps in the frame numbers: {len(gaps)}, the first after {frames[gaps[0]]}")
    return frames, notes


def frames_in(folder: AnyPath) -> tuple[list[str], list[str]]:
    """Apply `frames_among` to the files of a folder. Also raises MediaError if a frame is an empty file."""
    sizes = {name: size for name, size in sizes_in(folder).items() if "/" not in name}
    frames, notes = frames_among(sizes)
    empty = [name for name in frames if sizes[name] == 0]
    if empty:
        raise MediaError("open", "empty-file", f"{len(empty)} of {len(frames)} frames have 0 bytes, first {empty[0]}")
    return frames, notes


def check_frames(folder: AnyPath) -> list[str]:
    """Return the frames in a folder after checking for truncated files: on a local disk, by the last bytes of each.

    Raises MediaError, StorageError. To read only a few frames, `frames_in` is enough.
    """
    try:
        frames, _ = frames_in(folder)
        for name in frames:
            end = _ENDS.get(suffix_of(name))
            if end is not None and storage_of(folder / name).last_bytes(len(end)) not in (None, end):
                read_frame(folder, name)  # raises if damaged; extra bytes after a complete picture are fine
    except StorageError:
        raise
    except OSError as error:
        raise_storage_trouble(error, folder)
        raise MediaError("open", "not-media", one_line(error, folder)) from None
    return frames


def read_frame(folder: AnyPath, name: str) -> np.ndarray:
    """Read one frame with `read_picture`. A MediaError names the frame."""
    try:
        return read_picture(folder / name)[0]
    except MediaError as error:
        raise MediaError(error.stage, error.reason, f"{name}: {error.message}") from None


def _patterns(pictures: Iterable[str]) -> list[_Pattern]:
    """Group the numbered pictures by name pattern."""
    found: dict[tuple[str, str], _Pattern] = {}
    for name in sorted(pictures):
        suffix = suffix_of(name)
        words = _NUMBER.split(name[: len(name) - len(suffix)])
        if len(words) == 1:
            continue
        key = ("#".join(words[::2]), suffix)
        pattern = found.setdefault(key, _Pattern(*key, files={}, twins=[]))
        numbers = tuple(map(int, words[1::2]))
        if pattern.files.setdefault(numbers, name) != name:
            pattern.twins.append(name)
    return list(found.values())


def _gaps(frames: Sequence[Numbers]) -> list[int]:
    """Return the positions of the frames after which numbers are missing; empty unless exactly one number varies."""
    varying = [position for position in zip(*frames, strict=True) if len(set(position)) > 1]
    if len(varying) != 1:
        return []
    steps = [after - before for before, after in zip(varying[0], varying[0][1:], strict=False)]
    return [i for i, step in enumerate(steps) if step > min(steps)]


def _mixed(what: str) -> MediaError:
    return MediaError("open", "mixed-names", f"{what}; keep only one video's frames in a folder, with one name pattern")
