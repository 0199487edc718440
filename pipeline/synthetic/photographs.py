"""Photographs from the wheels of scikit-image and scikit-learn, recoloured so that a few look like many.

Test photographs are never training photographs. Pictures are uint8 (size_px, size_px, 3).
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from bevt_core.console.installation import install_command
from schemas.errors import UserError

# name -> (folder in the wheel, file, origin according to the wheel's documentation)
_SKIMAGE, _SKLEARN = "skimage/data", "sklearn/datasets/images"

PHOTOGRAPHS = {
    "train": {
        "astronaut": (_SKIMAGE, "astronaut.png", "Eileen Collins, NASA, public domain"),
        "brick": (_SKIMAGE, "brick.png", "CC0Textures.com, CC0"),
        "camera": (_SKIMAGE, "camera.png", "Lav Varshney, CC0"),
        "china": (_SKLEARN, "china.jpg", "danielbuechele on flickr, CC BY 2.0"),
        "coffee": (_SKIMAGE, "coffee.png", "Rachel Michetti, CC0"),
        "coins": (_SKIMAGE, "coins.png", "Greek coins from Pompeii, Brooklyn Museum, no known restrictions"),
        "grass": (_SKIMAGE, "grass.png", "linolafett on DeviantArt, CC0"),
        "hubble": (_SKIMAGE, "hubble_deep_field.jpg", "Hubble eXtreme Deep Field, NASA, public domain"),
        "ihc": (_SKIMAGE, "ihc.png", "Center for Microscopy and Molecular Imaging, no known restrictions"),
        "retina": (_SKIMAGE, "retina.jpg", "Mikael Häggström, Wikimedia Commons, CC0"),
        "rocket": (_SKIMAGE, "rocket.jpg", "SpaceX, public domain"),
    },
    "test": {
        "chelsea": (_SKIMAGE, "chelsea.png", "Stefan van der Walt, CC0"),
        "flower": (_SKLEARN, "flower.jpg", "vultilion on flickr, CC BY 2.0"),
        "gravel": (_SKIMAGE, "gravel.png", "CC0Textures.com, CC0"),
        "motorcycle": (_SKIMAGE, "motorcycle_left.png", "Middlebury stereo data 2014, Scharstein et al."),
    },
}


def draw_image(name: str, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a recoloured crop of a training photograph: uint8 (size_px, size_px, 3)."""
    photo = photograph("train", name, bool(rng.integers(2)))
    shortest = min(photo.size)
    side = math.exp(rng.uniform(math.log(min(0.9 * size_px, shortest)), math.log(shortest)))
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    crop = photo.resize((size_px, size_px), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return recoloured(crop, draw_recolouring(rng))


@dataclass(frozen=True)
class Recolouring:
    """A change of colours: permuted channels with new levels."""

    channels: list[int]  # permutation of R, G, B
    levels: np.ndarray  # uint8 [3, 256]: the new value for each value of each channel


def draw_recolouring(rng: np.random.Generator) -> Recolouring:
    """Draw a recolouring, so that one photograph gives many; its distribution is the same for every class."""
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, (3, 1))
    levels = np.clip(np.rint(np.arange(256) * gain + rng.uniform(-25, 25)), 0, 255)
    return Recolouring(channels=rng.permutation(3).tolist(), levels=levels.astype(np.uint8))


def recoloured(picture: Image.Image, recolouring: Recolouring) -> np.ndarray:
    """The picture recoloured, uint8 (height, width, 3)."""
    pixels = np.asarray(picture)
    return np.stack([recolouring.levels[i][pixels[..., c]] for i, c in enumerate(recolouring.channels)], axis=-1)


@lru_cache(maxsize=2 * (len(PHOTOGRAPHS["train"]) + len(PHOTOGRAPHS["test"])))
def photograph(split: str, name: str, mirrored: bool) -> Image.Image:
    """The photograph in RGB, at most 800 px a side. Raises UserError if its package is not installed."""
    folder, file, _ = PHOTOGRAPHS[split][name]
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"package {package}, needed for the photograph {file}, is not installed; run `{install_command()}`"
        )
    photo = Image.open(Path(spec.origin).parent / inside / file, formats=["JPEG", "PNG"]).convert("RGB")
    photo.thumbnail((800, 800), Image.Resampling.LANCZOS)
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo


@lru_cache(maxsize=128)
def reduced(split: str, name: str, mirrored: bool, level: int) -> Image.Image:
    """The photograph reduced by `level` half octaves."""
    photo = photograph(split, name, mirrored)
    size = tuple(round(length / 2 ** (level / 2)) for length in photo.size)
    return photo if level == 0 else photo.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def attribution() -> str:
    """The text of ATTRIBUTION.txt: the origin of each photograph, one per line."""
    lines = ["The files in this folder were made from these photographs:", ""]
    for split, photographs in PHOTOGRAPHS.items():
        for name, (folder, file, source) in photographs.items():
            lines.append(f"{split}\t{name}\t{folder}/{file}\t{source}")
    return "\n".join([*lines, ""])
