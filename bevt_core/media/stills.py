"""A still picture as an upright 8-bit RGB frame.

Pixel types whose values have no defined range (32-bit integers, floats) are rejected: any scale would be a guess.
Legend: H height, W width, C channels (RGB).
"""

import struct
import warnings as python_warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from bevt_core.media.errors import MediaError, one_line
from bevt_core.storage.files import size_of
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from schemas.errors import StorageError
from schemas.ranges import MAX_FRAME_PIXELS

# Fewer than Pillow supports: EPS runs Ghostscript, and a thumbnail inside a PSD or an icon is not the picture.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "AVIF", "JPEG2000", "TGA")
# Exceptions that Pillow raises for broken files, depending on the format.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
MAX_SIDE = 65_535  # JPEG's limit; Pillow allocates 8 bytes per row
ORIENTATION = 0x112  # the only EXIF tag that is read
UPRIGHT = {  # EXIF orientation -> how to turn the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2  # values of the last two tags


@contextmanager
def opened_picture(path: AnyPath) -> Iterator[Image.Image]:
    """Open a picture and read its header, without decoding pixels.

    Raises MediaError if the file is not a picture, is too large, or has a pixel type without a defined range;
    StorageError if it cannot be read.
    """
    if storage_of(path).is_folder():
        raise MediaError("open", "not-media", "a folder, expected a picture")
    size = size_of(path)
    if size <= 0:
        raise MediaError("open", *(("empty-file", "0 bytes") if size == 0 else ("missing", "no such file")))
    Image.init()
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        with _opened(path) as image:
            yield image


@contextmanager
def _opened(path: AnyPath) -> Iterator[Image.Image]:
    with ExitStack() as opened:
        try:
            file = opened.enter_context(storage_of(path).reader())
            image = opened.enter_context(Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]))
        except StorageError:
            raise
        except Image.DecompressionBombError as error:
            raise MediaError("open", "too-large", one_line(error, path)) from None
        except UnidentifiedImageError:
            raise MediaError("open", "not-media", "not a picture, or its header is damaged") from None
        except BROKEN as error:
            raise_storage_trouble(error, path)
            raise MediaError("open", "not-media", one_line(error, path)) from None
        if image.width * image.height > MAX_FRAME_PIXELS or max(image.size) > MAX_SIDE:
            limits = f"the limits are {MAX_FRAME_PIXELS} pixels and {MAX_SIDE} on a side"
            raise MediaError("open", "too-large", f"{image.width}x{image.height}, {limits}")
        trouble = _pixel_trouble(image)
        if trouble is not None:
            raise MediaError(
                "open", "pixel-type", f"{trouble} have no defined range; convert the picture to 8 or 16 bits"
            )
        yield image


def read_picture(path: AnyPath) -> tuple[np.ndarray, list[str]]:
    """Return (frame, notes): an upright RGB frame, uint8 (H, W, 3), and the conversions applied.

    Transparent pictures are composited over white, 16-bit values keep their high 8 bits, and a file with several
    pictures (animations, pages) yields the first. Raises MediaError, also for damaged pixels, and StorageError.
    """
    with opened_picture(path) as image:
        notes = [] if image.mode == "RGB" else [f"converted from {image.mode}"]
        size = image.size
        try:
            has_previews = image.format == "MPO"  # its other pictures are previews of the first
            pictures = 1 if has_previews else getattr(image, "n_frames", 1)
            if pictures > 1:
                notes.append(f"the first of {pictures} pictures")
            image.load()
            upright = _upright(image)
            if upright.size != size:
                notes.append("EXIF orientation applied")
            return np.ascontiguousarray(_rgb(upright, image)), notes
        except BROKEN as error:
            raise_storage_trouble(error, path)
            raise MediaError("decode", "damaged", one_line(error, path)) from None


def _pixel_trouble(image: Image.Image) -> str | None:
    """Return the picture's pixel type in words if it is unsupported, else None."""
    if image.mode == "F":
        return "floating-point pixels (mode F)"
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these formats, mode I means 16 bits
        return "32-bit or signed integer pixels (mode I)"
    if _SIGNED in _tag(image, _SAMPLE_FORMAT):
        return "signed pixels"
    return None


def _tag(image: Image.Image, tag: int) -> tuple[int, ...]:
    """Return the values of a TIFF tag; empty if the picture is not a TIFF or lacks the tag."""
    value = getattr(image, "tag_v2", {}).get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _upright(image: Image.Image) -> Image.Image:
    """Rotate or mirror the loaded picture by its EXIF orientation. Unreadable EXIF is ignored; Pillow turns TIFFs."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except BROKEN:
        orientation = None
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(upright: Image.Image, image: Image.Image) -> np.ndarray:
    """Return the pixels of `upright` as RGB, uint8 (H, W, 3). `image` is the picture as opened."""
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        bits = (_tag(image, _BITS) or (16,))[0]
        grey_HW = (np.asarray(upright).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
        if _tag(image, _PHOTOMETRIC) == (_WHITE_IS_ZERO,):
            grey_HW = 255 - grey_HW
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(upright.convert("RGB"))
