"""What jitter costs a CPU, by Pillow and compiled: `python benchmarks/jitter.py [FILE...]`.

Random views of stored frames, with the same distribution as an image stream's: the jitter alone, and from the JPEG to
the crop. Median CPU milliseconds a picture over ROUNDS rounds of PICTURES, the ways alternating in one process. Without
files the frames are smooth noise of 256 x 341 px; files are scaled as the pipeline does.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from bevt_core.rng import rng_for
from bevt_core.views.jitter import jitter_by_pillow, jitter_compiled
from bevt_core.views.replay import apply_view, box_of, decode_jpeg, encode_jpeg, random_view, shrink_short_side
from bevt_core.views.resample import Backend, pixels_read
from schemas.views import View, ViewDistribution

ROUNDS, PICTURES, SHORT_SIDE_PX, QUALITY = 9, 200, 256, 90
VIEWS = ViewDistribution(crop_px=224, short_side_min_px=256, short_side_max_px=320, flip_share=0.5, jitter=0.4)


def main() -> None:
    pictures = [read(path) for path in sys.argv[1:]] or [smooth_noise(i) for i in range(8)]
    jpegs = [encode_jpeg(shrink_short_side(picture, SHORT_SIDE_PX), QUALITY) for picture in pictures]
    frames = [decode_jpeg(jpeg) for jpeg in jpegs]
    views = [random_view(VIEWS, rng_for("jitter", i), *frames[i % len(frames)].shape[:2]) for i in range(PICTURES)]
    plain = [view.model_copy(update={"jitter": ()}) for view in views]

    def alone(way: Callable[..., np.ndarray]) -> None:
        for i, view in enumerate(views):
            frame = frames[i % len(frames)]
            way(frame, view)

    def replayed(some: list[View], backend: Backend) -> None:
        for i, view in enumerate(some):
            apply_view(decode_jpeg(jpegs[i % len(jpegs)]), view, backend)

    ways: dict[str, Callable[[], None]] = {
        "jitter by Pillow": lambda: alone(by_pillow),
        "jitter compiled": lambda: alone(compiled),
        "JPEG to crop, by Pillow": lambda: replayed(views, "pillow"),
        "JPEG to crop, compiled": lambda: replayed(views, "compiled"),
        "JPEG to crop, compiled, no jitter": lambda: replayed(plain, "compiled"),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warms up
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            way()
            spent[name].append((time.process_time() - began) / PICTURES * 1e3)
    for name, times in spent.items():
        print(f"{name:34s} {statistics.median(times):.3f} ms a picture (least {min(times):.3f})")


def by_pillow(frame_HWC: np.ndarray, view: View) -> np.ndarray:
    return jitter_by_pillow(frame_HWC, view.jitter)


def compiled(frame_HWC: np.ndarray, view: View) -> np.ndarray:
    height, width = frame_HWC.shape[:2]
    part = pixels_read(height, width, box_of(view, height, width), view.crop_px)
    return jitter_compiled(frame_HWC, view.jitter, part)


def read(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def smooth_noise(key: int) -> np.ndarray:
    coarse = rng_for("jitter benchmark", key).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((341, SHORT_SIDE_PX), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
