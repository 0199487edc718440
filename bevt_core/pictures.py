"""Pictures for people: sheets of frames, masked clips, predicted tokens decoded back to pixels. All uint8 RGB."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Values = Sequence[float] | np.ndarray

GAP_PX = 4
LABEL_PX = 14
PAPER = (255, 255, 255)
HIDDEN = np.array([64, 64, 72], dtype=np.uint8)  # the colour of a masked position


def sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str] = (), cell_px: int = 96) -> np.ndarray:
    """Frames in a grid, one labelled row after another: uint8 (H, W, 3). Frames are scaled to `cell_px` squares."""
    columns = max((len(row) for row in rows), default=0)
    row_px = cell_px + GAP_PX + (LABEL_PX if labels else 0)
    page = Image.new("RGB", (columns * (cell_px + GAP_PX) + GAP_PX, len(rows) * row_px + GAP_PX), PAPER)
    draw = ImageDraw.Draw(page)
    for r, row in enumerate(rows):
        top = GAP_PX + r * row_px
        if labels:
            draw.text((GAP_PX, top), labels[r], fill=(0, 0, 0))
            top += LABEL_PX
        for c, frame in enumerate(row):
            cell = Image.fromarray(frame).resize((cell_px, cell_px), Image.Resampling.NEAREST)
            page.paste(cell, (GAP_PX + c * (cell_px + GAP_PX), top))
    return np.asarray(page)


def fitted(frame_HWC: np.ndarray, cell_px: int) -> np.ndarray:
    """The picture in a square of `cell_px`, scaled to fit, black around it: uint8 (cell_px, cell_px, 3)."""
    image = Image.fromarray(frame_HWC)
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    cell = Image.new("RGB", (cell_px, cell_px))
    cell.paste(image.resize(size, how), ((cell_px - size[0]) // 2, (cell_px - size[1]) // 2))
    return np.asarray(cell)


def film(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], cell_px: int = 224) -> list[np.ndarray]:
    """The rows of a sheet as a film: the rows' frames of one time side by side, labelled, time after time."""
    return [
        np.hstack([sheet([[row[at]]], [label], cell_px) for row, label in zip(rows, labels, strict=True)])
        for at in range(min(len(row) for row in rows))
    ]


def heat(frames_THWC: np.ndarray, values_THW: np.ndarray) -> np.ndarray:
    """Lay values over frames, dark for the lowest and yellow for the highest of the clip (1 % cut off at each end).

    `values_THW` has the frames' size.
    """
    from matplotlib import colormaps

    low, high = np.percentile(values_THW, (1, 99))
    scaled_THW = np.clip((values_THW - low) / max(high - low, 1e-9), 0, 1)
    colours_THWC = colormaps["inferno"](scaled_THW)[..., :3] * 255
    grey_THW1 = frames_THWC.mean(axis=-1, keepdims=True)
    return (0.35 * grey_THW1 + 0.65 * colours_THWC).round().astype(np.uint8)


def hide(frames_THWC: np.ndarray, mask_THW: np.ndarray) -> np.ndarray:
    """The clip as the model sees it: masked positions in grey. The mask's grid must divide the frames'."""
    repeats = [size // cells for size, cells in zip(frames_THWC.shape, mask_THW.shape, strict=False)]
    hidden = mask_THW
    for axis, repeat in enumerate(repeats):
        hidden = hidden.repeat(repeat, axis=axis)
    return np.where(hidden[..., None], HIDDEN, frames_THWC)


def png(image_HWC: np.ndarray) -> bytes:
    """The image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


def mp4(frames_HWC: Sequence[np.ndarray], fps: int) -> bytes:
    """The frames as the bytes of an H.264 file that browsers play; an odd last row or column is cut off."""
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


def curves_png(series: Mapping[str, tuple[Values, Values]], xlabel: str, ylabel: str, log: str = "") -> bytes:
    """Line plots, name -> (x, y), in one figure, as the bytes of a PNG file. `log`: the logarithmic axes, of "xy"."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set(**{f"{axis}scale": "log" for axis in log})
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)  # a name may have dollar signs
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def histograms_png(panels: Mapping[str, tuple[np.ndarray, str]], bins: int = 40) -> bytes:
    """Histograms side by side, axis label -> (values, what has them), as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 2.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, (values, counted)) in zip(all_axes, panels.items(), strict=True):
        axes.hist(values, bins=min(bins, max(1, len(values))))
        axes.set(xlabel=label, ylabel=counted)
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def save_png(path: Path, image_HWC: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image_HWC))
