"""Which files are videos and which are pictures, by their suffix, and which are never looked at.

Every file of these kinds is a source: it ends once in the index, or among the rejected where nothing here reads it
(HEIC, MXF). A file with another suffix (text, sound, archives, partial downloads) is no source and is counted by its
suffix.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from schemas.frames import MediaKind

GIF = ".gif"  # a picture among pictures, a video elsewhere
_IMAGES = """
jpg jpeg jpe jfif png apng webp bmp dib tif tiff ppm pgm pbm pnm tga jp2 j2k avif heic heif jxl
"""
_VIDEOS = """
mp4 m4v mov qt mp4v f4v 3gp 3g2 webm mkv mk3d avi divx flv wmv asf wtv ogv ogm ivf nut rm rmvb mxf dv y4m
mpg mpeg mpe mpg2 mpeg2 mp2v m1v m2v vob tod mod ts mts m2ts m2t trp h264 264 h265 265 hevc mjpeg mjpg
"""
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGES.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEOS.split())
# What file systems and their tools keep for themselves; often without permission to read it, or full of thumbnails.
SYSTEM_FOLDERS = frozenset(
    {"lost+found", "System Volume Information", "$RECYCLE.BIN", "#recycle", "@eaDir", "__MACOSX"}
)
NO_SUFFIX = "without a suffix"


def suffix_of(path: str) -> str:
    """The suffix of the file's name, in lower case; empty where it has none."""
    return PurePosixPath(path).suffix.lower()


def kind_of(path: str, gif: MediaKind = "video") -> MediaKind | None:
    """Return what kind of source a file is, by its suffix; `gif` is what a GIF counts as. None: it is no source."""
    suffix = suffix_of(path)
    if suffix == GIF:
        return gif
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never read: hidden ones, and those of the system."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def count_suffixes(paths: Iterable[str]) -> dict[str, int]:
    """How many files there are of each suffix, by suffix."""
    return dict(sorted(Counter(suffix_of(path) or NO_SUFFIX for path in paths).items()))
