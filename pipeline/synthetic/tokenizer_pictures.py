"""Pictures to train a tokenizer on where there is no data set: crops of the wheels' photographs, and dead leaves.

A dead-leaves picture is a heap of flat shapes that hide one another; with sizes spread as r^-3 it has the edge and
contrast statistics of natural pictures (Lee, Mumford & Huang 2001), and no licence to ask about.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bevt_core.rng import rng_for
from bevt_core.storage.files import write_atomic
from pipeline.synthetic.camera_motion import PHOTOGRAPHS, attribution, draw_paint, painted, photograph
from schemas.errors import UserError

SIZE_PX = 144  # room for random 112 px crops
_PALE_SHARE = 0.7  # of the pictures: saturation drawn from the range below, as most natural pictures are pale
_PALE = (0.1, 0.9)


def make_tokenizer_pictures(out: Path, *, count: int = 1000, seed: int = 0) -> None:
    """Write `out/leaves/*.png` and `out/photographs/*.png`, `count` in all, `SIZE_PX` square, and ATTRIBUTION.txt.

    Only the camera-motion set's training photographs are used. Raises UserError if `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists; give another place, or remove it first")
    for index in range(count):
        kind = "photographs" if index % 2 else "leaves"
        (out / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_picture(seed, index)).save(out / kind / f"{index:06d}.png")
    write_atomic(out / "ATTRIBUTION.txt", attribution("train").encode())


def draw_picture(seed: int, index: int) -> np.ndarray:
    """The picture of that number, uint8 `[SIZE_PX, SIZE_PX, 3]`: odd ones photographs, even ones dead leaves."""
    rng = rng_for("tokenizer_pictures", seed, index)
    picture = photo_crop(rng, SIZE_PX) if index % 2 else dead_leaves(rng, SIZE_PX)
    values = picture.astype(np.float32)
    if rng.uniform() < _PALE_SHARE:
        saturation = rng.uniform(*_PALE)
        values = values * saturation + values.mean(axis=-1, keepdims=True) * (1 - saturation)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def photo_crop(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A square of a training photograph, from `size_px` to its whole short side, mirrored and recoloured at random."""
    photo = photograph("train", str(rng.choice(list(PHOTOGRAPHS["train"]))), bool(rng.integers(2)))
    shortest = min(photo.size)
    side = math.exp(rng.uniform(math.log(min(size_px, shortest)), math.log(shortest)))
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    box = (left, top, left + side, top + side)
    crop = photo.resize((size_px, size_px), Image.Resampling.LANCZOS, box=box)
    return painted(crop, draw_paint(rng))


def dead_leaves(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """60 to 350 ellipses and polygons over one another, lit unevenly, with grain, some out of focus."""
    canvas_px = 2 * size_px  # drawn at twice the size, against jagged edges
    background, contrast = rng.uniform(0, 255, 3), rng.uniform(20, 90)
    picture = Image.new("RGB", (canvas_px, canvas_px), tuple(background.astype(int).tolist()))
    smallest, largest = rng.uniform(2, 10), rng.uniform(40, 140)
    count = int(rng.uniform(60, 350))
    radii = (smallest**-2 + (largest**-2 - smallest**-2) * rng.uniform(size=count)) ** -0.5  # density ~ r^-3
    if rng.uniform() < 0.5:
        radii = np.sort(radii)[::-1]  # large ones behind
    shades = background + rng.normal(0, contrast, (count, 1)) + rng.normal(0, 0.4 * contrast, (count, 3))
    colours = np.clip(shades, 0, 255).astype(int).tolist()
    centres = rng.uniform(-20, canvas_px + 20, (count, 2))
    draw = ImageDraw.Draw(picture)
    for (x, y), radius, colour in zip(centres, radii, colours, strict=True):
        corners, squeeze = int(rng.integers(2, 5)), rng.uniform(0.3, 1.0)
        if corners == 2:
            box = (x - radius, y - radius * squeeze, x + radius, y + radius * squeeze)
            draw.ellipse(box, fill=tuple(colour))
        else:
            turns = np.arange(corners) / corners + rng.uniform() + rng.uniform(-0.05, 0.05, corners)
            angles = 2 * math.pi * turns
            points = np.stack([x + radius * np.cos(angles), y + radius * squeeze * np.sin(angles)], axis=1)
            draw.polygon([(px, py) for px, py in points.tolist()], fill=tuple(colour))

    size = (size_px, size_px)
    values = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    light = _blown_up(rng.uniform(0.6, 1.3, (4, 4)), size, Image.Resampling.BICUBIC)
    grain_px = size_px // int(rng.integers(1, 4))
    grain = _blown_up(rng.normal(0, rng.uniform(0, 14), (grain_px, grain_px)), size, Image.Resampling.BILINEAR)
    lit = np.clip(np.rint(values * light + grain), 0, 255).astype(np.uint8)
    if rng.uniform() < 0.3:
        return np.asarray(Image.fromarray(lit).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2))))
    return lit


def _blown_up(coarse: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(coarse.astype(np.float32)).resize(size, how))[..., None]
