"""Labelled pictures without motion: `python benchmarks/study/pictures.py OUT --count N`.

OUT/train/NAME/*.jpg and OUT/test/NAME/*.jpg are recoloured crops of the photograph NAME, 64 px; an eighth is for tests.
"""

import argparse
from pathlib import Path

from PIL import Image

from bevt_core.rng import rng_for
from pipeline.synthetic.photographs import PHOTOGRAPHS, attribution, draw_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    names = list(PHOTOGRAPHS["train"])
    for index in range(options.count):
        split = "test" if index // len(names) % 8 == 0 else "train"
        name = names[index % len(names)]
        folder = options.out / split / name
        folder.mkdir(parents=True, exist_ok=True)
        picture = draw_image(name, 64, rng_for("study pictures", index))
        Image.fromarray(picture).save(folder / f"{index:06d}.jpg", quality=92)
    (options.out / "ATTRIBUTION.txt").write_text(attribution())


if __name__ == "__main__":
    main()
