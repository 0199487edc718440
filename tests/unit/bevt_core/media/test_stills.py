"""A still picture is read upright with its own pixels, or rejected with a reason; never as a wrong picture."""

import ast
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from bevt_core.media.errors import MediaError
from bevt_core.media.stills import opened_picture, read_picture
from tests.support.media import moving_frames
from tests.support.mutations import mutate

GREY_HW = np.linspace(0, 65535, 48 * 64).reshape(48, 64).round().astype(np.uint16)
COLOURS_HWC = moving_frames(1)[0]


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def tiff(path: Path, pixels_HW: np.ndarray, bits: int, photometric: int = 1, sample_format: int = 1) -> Path:
    """An uncompressed grey TIFF, written by hand: Pillow reads more pixel types than it writes."""
    height, width = pixels_HW.shape
    data = pixels_HW.tobytes()
    if bits == 12:  # two pixels in three bytes
        even, odd = pixels_HW.reshape(-1, 2).T.astype(np.uint16)
        data = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8).tobytes()
    order = ">" if pixels_HW.dtype.byteorder == ">" else "<"
    values = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    values |= {279: len(data), 339: sample_format}
    tags = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in values.items())
    mark = b"MM" if order == ">" else b"II"
    end = struct.pack(f"{order}I", 0)
    header = mark + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(header + data + struct.pack(f"{order}H", len(values)) + tags + end)
    return path


def reason(path: Path) -> str:
    with pytest.raises(MediaError) as error:
        read_picture(path)
    return error.value.reason


# ---- pixel types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_sixteen_bits_keep_the_high_eight(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(GREY_HW.astype(np.int32) if suffix == "pgm" else GREY_HW)
    frame_HWC, notes = read_picture(saved(tmp_path / f"x.{suffix}", image))
    assert np.array_equal(frame_HWC, np.repeat((GREY_HW >> 8).astype(np.uint8)[..., None], 3, 2))
    assert notes[0].startswith("converted from I")


@pytest.mark.parametrize(
    ("pixels_HW", "bits", "photometric"),
    [
        (GREY_HW.astype("<u2"), 16, 1),
        (GREY_HW.astype(">u2"), 16, 1),
        (65535 - GREY_HW, 16, 0),  # white is zero
        ((GREY_HW >> 4), 12, 1),
        ((GREY_HW >> 8).astype(np.uint8), 8, 1),
        (255 - (GREY_HW >> 8).astype(np.uint8), 8, 0),
    ],
)
def test_grey_tiffs(tmp_path: Path, pixels_HW: np.ndarray, bits: int, photometric: int) -> None:
    frame_HWC, _ = read_picture(tiff(tmp_path / "x.tif", pixels_HW, bits, photometric))
    assert np.array_equal(frame_HWC[..., 1], GREY_HW >> 8)


@pytest.mark.parametrize(
    ("pixels_HW", "bits", "sample_format"),
    [
        (GREY_HW.astype("<i4"), 32, 2),
        (GREY_HW.astype("<u4"), 32, 1),
        (GREY_HW.astype("<i2"), 16, 2),
        ((GREY_HW >> 8).astype(np.int8), 8, 2),
        ((GREY_HW / 65535).astype("<f4"), 32, 3),
    ],
)
def test_pixels_without_a_range_are_rejected(
    tmp_path: Path, pixels_HW: np.ndarray, bits: int, sample_format: int
) -> None:
    """Converted, they would be all white, all black or wrapped around; the header is enough to reject them."""
    path = tiff(tmp_path / "x.tif", pixels_HW, bits, sample_format=sample_format)
    assert reason(path) == "pixel-type"
    with pytest.raises(MediaError, match="convert the picture to 8 or 16 bits"), opened_picture(path):
        pass


@pytest.mark.parametrize("name", ["1 png", "L png", "P png", "P bmp", "P gif", "LA png", "RGBA tif", "CMYK tif"])
def test_other_modes_become_rgb(tmp_path: Path, name: str) -> None:
    mode, suffix = name.split()
    image = Image.fromarray(COLOURS_HWC).convert(mode)
    frame_HWC, _ = read_picture(saved(tmp_path / f"x.{suffix}", image))
    assert np.array_equal(frame_HWC, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """Transparent pixels become white, not the colour that an editor left under them."""
    left_HW = np.zeros((48, 64), np.uint8)
    left_HW[:, 32:] = 255
    image = Image.fromarray(np.where(left_HW[..., None], COLOURS_HWC, 0).astype(np.uint8))
    options: dict[str, object] = {}
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(left_HW))
    elif mode == "P":
        image = Image.fromarray(left_HW // 255, mode="P")
        image.putpalette([255, 0, 0, 0, 0, 255])
        options = {"transparency": 0}
    else:
        options = {"transparency": (0, 0, 0)}
    frame_HWC, _ = read_picture(saved(tmp_path / "x.png", image, **options))
    assert (frame_HWC[:, :32] == 255).all() and frame_HWC[:, 40:].mean() < 250


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif"])
def test_of_several_pictures_the_first_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((48, 64, 3), value, np.uint8)) for value in (40, 120, 200)]
    frame_HWC, notes = read_picture(saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:]))
    assert abs(int(frame_HWC.mean()) - 40) <= 1 and "the first of 3 pictures" in notes


def test_previews_in_a_phones_picture_are_no_pages(tmp_path: Path) -> None:
    first, second = (Image.fromarray(frame) for frame in moving_frames(2))
    _, notes = read_picture(saved(tmp_path / "x.jpg", first, format="MPO", save_all=True, append_images=[second]))
    assert notes == []


# ---- EXIF ------------------------------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A block of (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


ORIENTATION = (0x112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "odd",
    [
        (0x100, 9, 1, struct.pack("<i", -1)),  # a width of -1
        (0x10F, 11, 1, struct.pack("<f", 1.5)),  # a maker's name that is a number
        (0x10F, 12, 1, b"\x1a\0\0\0"),
        (0x11A, 10, 1, b"\xff\xff\0\0"),  # a resolution outside the block
        (0x8769, 4, 1, b"\xff\xff\xff\x7f"),  # more tags, far away
        (0x9999, 77, 1, b"abcd"),  # an unknown type
    ],
)
def test_an_odd_tag_beside_the_orientation_matters_to_nobody(
    tmp_path: Path, suffix: str, odd: tuple[int, int, int, bytes]
) -> None:
    plain, turned = tmp_path / f"plain.{suffix}", tmp_path / f"turned.{suffix}"
    image = Image.fromarray(COLOURS_HWC)
    saved(plain, image)
    saved(turned, image, exif=exif(*sorted([ORIENTATION, odd])))
    frame_HWC, notes = read_picture(turned)
    assert np.array_equal(frame_HWC, np.rot90(read_picture(plain)[0], -1))
    assert notes == ["EXIF orientation applied"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(tmp_path: Path, orientation: int) -> None:
    """The result equals that of Pillow's exif_transpose, also for TIFFs, which Pillow turns on loading."""
    from PIL import ImageOps

    tags = Image.Exif()
    tags[0x112] = orientation
    for suffix in ("png", "tif"):
        path = saved(tmp_path / f"x.{suffix}", Image.fromarray(COLOURS_HWC), exif=tags)
        with Image.open(path) as image:
            assert np.array_equal(read_picture(path)[0], np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("value", [(0x112, 3, 1, b"\x63\0\0\0"), (0x112, 2, 4, b"six\0"), (0x112, 5, 1, b"\xff\0\0\0")])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, value: tuple[int, int, int, bytes]) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(COLOURS_HWC), exif=exif(value))
    assert np.array_equal(read_picture(path)[0], COLOURS_HWC)


# ---- not a picture ---------------------------------------------------------------------------------------------------


def test_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    whole = saved(tmp_path / "whole.jpg", Image.fromarray(COLOURS_HWC)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    reasons = {"empty.jpg": "empty-file", "gone.jpg": "missing", "folder.jpg": "not-media", "page.jpg": "not-media"}
    assert {name: reason(tmp_path / name) for name in [*reasons, "cut.jpg"]} == {**reasons, "cut.jpg": "damaged"}


def pictures() -> dict[str, bytes]:
    """One picture of each format, by suffix."""
    frames = [Image.fromarray(frame_HWC) for frame_HWC in moving_frames(3)]
    tags = Image.Exif()
    tags[0x112], tags[0x10F] = 6, "a maker"
    options: dict[str, dict[str, object]] = {
        "jpg": {"exif": tags},
        "png": {"exif": tags},
        "tif": {"exif": tags, "save_all": True, "append_images": frames[1:]},
        "gif": {"save_all": True, "append_images": frames[1:]},
        "webp": {"save_all": True, "append_images": frames[1:]},
    }
    written = {}
    for suffix in ("jpg", "png", "tif", "gif", "webp", "bmp", "ppm", "tga", "avif", "jp2"):
        file = io.BytesIO()
        frames[0].save(file, Image.registered_extensions()[f".{suffix}"], **options.get(suffix, {}))
        written[suffix] = file.getvalue()
    return written


@pytest.mark.parametrize("mutations", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_pictures_end_in_a_frame_or_a_reason(tmp_path: Path, mutations: int) -> None:
    for suffix, data in pictures().items():
        path = tmp_path / f"x.{suffix}"
        for seed in range(mutations):
            path.write_bytes(mutate(data, seed))
            try:
                frame_HWC, _ = read_picture(path)
            except MediaError:
                continue
            assert frame_HWC.dtype == np.uint8 and frame_HWC.shape[2:] == (3,), (suffix, seed)


def test_no_picture_reaches_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to the program `gs`, whatever the file's name."""
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for name in ("x.jpg", "x.eps", "x.png"):
        path = tmp_path / name
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
        with pytest.raises(MediaError, match=r"not-media|not a picture"):
            read_picture(path)
    assert not ran.exists()
    with pytest.raises(OSError), Image.open(tmp_path / "x.jpg") as image:  # plain Pillow
        image.load()
    assert ran.exists()


def test_every_picture_is_opened_as_one_of_a_few_formats() -> None:
    repo = Path(__file__).resolve().parents[4]
    calls = [
        (path.name, {keyword.arg for keyword in node.keywords})
        for folder in ("schemas", "bevt_core", "pipeline", "trainer")
        for path in (repo / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert {name for name, _ in calls} == {"stills.py", "photographs.py"}
    assert all("formats" in keywords for _, keywords in calls)


@pytest.mark.parametrize(("width", "height"), [(1, 60_000_000), (60_000_000, 1), (9000, 9000), (2**31 - 1, 2**31 - 1)])
def test_absurd_sizes_are_refused_by_the_header(tmp_path: Path, width: int, height: int) -> None:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(header + b"\0\0\0\4IDAT" + b"\0" * 8)
    with pytest.raises(MediaError) as error:
        read_picture(tmp_path / "x.png")
    assert error.value.reason == "too-large"


def test_a_file_that_is_no_picture_is_closed(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(MediaError) as error:  # holds the frames of the call
        read_picture(tmp_path / "x.jpg")
    assert error.value.reason == "not-media"
    assert set(Path("/proc/self/fd").iterdir()) == before
