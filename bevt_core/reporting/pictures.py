"""Pictures for people, all uint8 RGB: sheets of frames, masked clips, heat maps; and PNG and MP4 files of them."""

import bisect
import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bevt_core.console.inert import lines as lines_of
from bevt_core.reporting.plotting import colormap
from bevt_core.storage.files import write_atomic

GAP_PX = 4
FONT_PX, LINE_PX = 12, 16
PAPER, INK = (255, 255, 255), (0, 0, 0)
MARK = (255, 127, 0)  # the colour of a marked frame's border
HIDDEN = np.array([64, 64, 72], dtype=np.uint8)  # the colour of a masked position
HEAT_LIMIT = 4.0  # the scale of `heat` goes from 1 / HEAT_LIMIT to HEAT_LIMIT


def sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str] = (), cell_px: int = 96) -> np.ndarray:
    """Draw frames in a grid of labelled rows: uint8 (H, W, 3). Frames are scaled to `cell_px` squares.

    A label that is wider than the sheet takes several lines.
    """
    columns = max((len(row) for row in rows), default=0)
    width_px = columns * (cell_px + GAP_PX) + GAP_PX
    texts = [label.split("\n") for label in broken(labels, width_px - 2 * GAP_PX)]
    label_px = LINE_PX * max(map(len, texts), default=0)
    row_px = cell_px + GAP_PX + label_px
    page = Image.new("RGB", (width_px, len(rows) * row_px + GAP_PX), PAPER)
    draw = ImageDraw.Draw(page)
    for r, row in enumerate(rows):
        top = GAP_PX + r * row_px
        for number, line in enumerate(texts[r] if texts else ()):
            draw.text((GAP_PX, top + number * LINE_PX), line, fill=INK, font=_font())
        for c, frame in enumerate(row):
            cell = Image.fromarray(frame).resize((cell_px, cell_px), Image.Resampling.NEAREST)
            page.paste(cell, (GAP_PX + c * (cell_px + GAP_PX), top + label_px))
    return np.asarray(page)


def broken(labels: Sequence[str], width_px: int) -> list[str]:
    """Break labels into lines of at most `width_px`, padded with empty lines to the same number of lines."""
    texts = [_lines(label, width_px) for label in labels]
    num_lines = max(map(len, texts), default=0)
    return ["\n".join([*lines, *[""] * (num_lines - len(lines))]) for lines in texts]


def _lines(label: str, width_px: int) -> list[str]:
    """Break a label at a space or after a slash if one is near, otherwise anywhere."""
    lines = []
    for rest in lines_of(label).split("\n"):
        while _font().getlength(rest) > width_px:
            lengths = range(1, len(rest))
            fits = max(1, bisect.bisect(lengths, width_px, key=lambda n: math.ceil(_font().getlength(rest[:n]))))
            at = max(rest.rfind(" ", 0, fits + 1), rest.rfind("/", 0, fits) + 1)
            at = at if at > fits // 2 else fits
            lines.append(rest[:at])
            rest = rest[at:].lstrip(" ")
        lines.append(rest)
    return lines


@functools.cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT_PX)


def tiled(pictures: Sequence[np.ndarray], across: int) -> np.ndarray:
    """Join pictures of one size in a grid with `across` columns, the last row filled with white: uint8 (H, W, 3)."""
    blank = np.full_like(pictures[0], 255)
    filled = [*pictures, *[blank] * (-len(pictures) % across)]
    return np.vstack([np.hstack(filled[first : first + across]) for first in range(0, len(filled), across)])


def marked(frame_HWC: np.ndarray) -> np.ndarray:
    """Return a copy of the frame with an orange border."""
    border_px = max(2, min(frame_HWC.shape[:2]) // 24)
    copy_HWC = np.empty_like(frame_HWC)
    copy_HWC[:] = MARK
    inside = slice(border_px, -border_px)
    copy_HWC[inside, inside] = frame_HWC[inside, inside]
    return copy_HWC


def fitted(frame_HWC: np.ndarray, cell_px: int) -> np.ndarray:
    """Scale a picture to fit into a white square: uint8 (cell_px, cell_px, 3)."""
    image = Image.fromarray(frame_HWC)
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    cell = Image.new("RGB", (cell_px, cell_px), PAPER)
    cell.paste(image.resize(size, how), ((cell_px - size[0]) // 2, (cell_px - size[1]) // 2))
    return np.asarray(cell)


def film(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], cell_px: int = 224) -> list[np.ndarray]:
    """Turn the rows of a sheet into a film: per time step, one picture with the rows' frames side by side, labelled."""
    texts = broken(labels, cell_px)
    return [
        np.hstack([sheet([[row[at]]], [text], cell_px) for row, text in zip(rows, texts, strict=True)])
        for at in range(min(len(row) for row in rows))
    ]


def heat(frames_THWC: np.ndarray, ratios_THW: np.ndarray) -> np.ndarray:
    """Overlay ratios on frames, on a fixed logarithmic scale: blue for 1/4 or less, grey for 1, red for 4 or more.

    `ratios_THW` has the frames' size. The scale is the same for all clips, so a clip with ratios near 1 is grey.
    """
    bounded_THW = np.clip(ratios_THW, 1 / HEAT_LIMIT, HEAT_LIMIT)
    colours_THWC = colormap("coolwarm")(0.5 + np.log(bounded_THW) / np.log(HEAT_LIMIT) / 2)[..., :3] * 255
    grey_THW1 = frames_THWC.mean(axis=-1, keepdims=True)
    blend_THWC: np.ndarray = (0.45 * grey_THW1 + 0.55 * colours_THWC).round().astype(np.uint8)
    return blend_THWC


def heat_scale(caption: str, width_px: int) -> np.ndarray:
    """Draw the colour scale of `heat` over mid-grey, with its ratios and a caption: uint8 (H, width_px, 3)."""
    bar_px, inside_px = 14, width_px - 2 * GAP_PX
    ratios_W = HEAT_LIMIT ** np.linspace(-1, 1, inside_px)
    grey = np.full((1, bar_px, inside_px, 3), 128, np.uint8)
    bar_HWC = heat(grey, np.broadcast_to(ratios_W, (1, bar_px, inside_px)))[0]
    lines = _lines(caption, inside_px)
    page = Image.new("RGB", (width_px, GAP_PX + bar_px + LINE_PX * (1 + len(lines))), PAPER)
    page.paste(Image.fromarray(bar_HWC), (GAP_PX, 0))
    draw = ImageDraw.Draw(page)
    for share, text, anchor in (
        (0, "1/4x or less", "la"),
        (0.25, "1/2x", "ma"),
        (0.5, "1x", "ma"),
        (0.75, "2x", "ma"),
        (1, "4x or more", "ra"),
    ):
        draw.text((GAP_PX + share * inside_px, bar_px + 1), text, fill=INK, font=_font(), anchor=anchor)
    for number, line in enumerate(lines, start=1):
        draw.text((GAP_PX, bar_px + number * LINE_PX), line, fill=INK, font=_font())
    return np.asarray(page)


def hide(frames_THWC: np.ndarray, mask_THW: np.ndarray) -> np.ndarray:
    """Return the clip as the model sees it: masked positions in grey. The mask's grid must divide the frames'."""
    repeats = [size // cells for size, cells in zip(frames_THWC.shape, mask_THW.shape, strict=False)]
    hidden = mask_THW
    for axis, repeat in enumerate(repeats):
        hidden = hidden.repeat(repeat, axis=axis)
    return np.where(hidden[..., None], HIDDEN, frames_THWC)


def png(image_HWC: np.ndarray) -> bytes:
    """Return the image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


def mp4(frames_HWC: Sequence[np.ndarray], fps: int) -> bytes:
    """Return the frames as the bytes of an H.264 file that browsers play; an odd last row or column is cut off."""
    import av

    height, width = (size // 2 * 2 for size in frames_HWC[0].shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "movflags": "+faststart"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame_HWC in frames_HWC:
            cut_HWC = np.ascontiguousarray(frame_HWC[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(cut_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def save_png(path: Path, image_HWC: np.ndarray) -> None:
    """Write the image as a PNG file, atomically."""
    write_atomic(path, png(image_HWC))
