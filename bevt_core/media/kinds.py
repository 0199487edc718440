"""Which files are videos and which are pictures, by suffix, and which names are always skipped.

Every file of these kinds is a source: it ends up once in the index or, if it cannot be read (HEIC, MXF), among the
rejected. A file with another suffix (text, sound, archives, partial downloads) is not a source and is counted by
suffix.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from schemas.frames import MediaKind

GIF = ".gif"  # an image in image data sets and frame folders, a video elsewhere
_IMAGES = """
jpg jpeg jpe jfif png apng webp bmp dib tif tiff ppm pgm pbm pnm tga jp2 j2k avif heic heif jxl
"""
_VIDEOS = """
mp4 m4v mov qt mp4v f4v 3gp 3g2 webm mkv mk3d avi divx flv wmv asf wtv ogv ogm ivf nut rm rmvb mxf dv y4m
mpg mpeg mpe mpg2 mpeg2 mp2v m1v m2v vob tod mod ts mts m2ts m2t trp h264 264 h265 265 hevc mjpeg mjpg
"""
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGES.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEOS.split())
# Internal folders of file systems and their tools: often unreadable, or full of thumbnails.
SYSTEM_FOLDERS = frozenset(
    {"lost+found", "System Volume Information", "$RECYCLE.BIN", "#recycle", "@eaDir", "__MACOSX"}
)
NO_SUFFIX = "without a suffix"


def suffix_of(path: str) -> str:
    """Return the suffix of the file's name in lower case, or an empty string: that of PurePosixPath, but faster."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def kind_of(path: str, gif: MediaKind = "video") -> MediaKind | None:
    """Return the kind of a source by its suffix, or None if the file is not a source. `gif` is the kind of a GIF."""
    return kind_of_suffix(suffix_of(path), gif)


def kind_of_suffix(suffix: str, gif: MediaKind = "video") -> MediaKind | None:
    """Return the kind of a source with this suffix, as `kind_of`."""
    if suffix == GIF:
        return gif
    return "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder with this name is always skipped, as hidden files and system folders are."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def count_suffixes(paths: Iterable[str]) -> dict[str, int]:
    """Return the number of files with each suffix, sorted by suffix."""
    return named(Counter(map(suffix_of, paths)))


def named(suffixes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of files by suffix, sorted, with a name for those that have none."""
    return dict(sorted((suffix or NO_SUFFIX, count) for suffix, count in suffixes.items() if count))
