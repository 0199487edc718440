"""Pictures to train `dvae-small` on: `python benchmarks/dvae_small/pictures.py OUT --count N`.

OUT/*.jpg are square crops, 144 px, of photographs in the wheels of scikit-image and scikit-learn, most of them with
other colours. CARD.md of `dvae-small` names the photographs and their licences.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from bevt_core.rng import rng_for
from pipeline.synthetic.photographs import PHOTOGRAPHS, photograph

SIZE_PX = 144  # training crops of 112 px are cut from these
WITHOUT = "motorcycle"  # its data set names no licence
RECOLOURED_SHARE = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [(split, name) for split, photographs in PHOTOGRAPHS.items() for name in photographs if name != WITHOUT]
    for index in range(options.count):
        picture = draw_picture(*names[index % len(names)], rng_for("dvae-small pictures", index))
        Image.fromarray(picture).save(options.out / f"{index:06d}.jpg", quality=95)


def draw_picture(split: str, name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a crop of a photograph, its side log-uniform up to the short side: uint8 (SIZE_PX, SIZE_PX, 3)."""
    photo = photograph(split, name, bool(rng.integers(2)))
    shortest = min(photo.size)
    side = math.exp(rng.uniform(math.log(min(SIZE_PX, shortest)), math.log(shortest)))
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    crop = photo.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels_HWC = np.asarray(crop)
    return recoloured(pixels_HWC, rng) if rng.random() < RECOLOURED_SHARE else pixels_HWC


def recoloured(pixels_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute the channels, mix each with grey, and change contrast and levels, all at random."""
    grey_share, contrast, shift_C = rng.uniform(0, 0.6), rng.uniform(0.6, 1.3), rng.normal(0, 0.12, 3)
    unit_HWC = pixels_HWC[..., rng.permutation(3)] / 255
    mixed_HWC = (1 - grey_share) * unit_HWC + grey_share * unit_HWC.mean(axis=-1, keepdims=True)
    changed_HWC = (mixed_HWC - 0.5) * contrast + 0.5 + shift_C
    return np.rint(changed_HWC.clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
