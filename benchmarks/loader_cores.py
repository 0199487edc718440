"""CPU cores that a GPU's loader needs: `python benchmarks/loader_cores.py [FILE...]`.

Measures how long a core takes to make a clip of 16 frames and an image ready, from stored JPEGs to crops and masks, and
divides by how long a GPU takes for them. Median CPU milliseconds of ROUNDS rounds in one process, views resampled and
jittered by compiled code. Pictures are the frames of the given files, scaled as the pipeline does, or smooth noise.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from bevt_core.masking import draw_mask
from bevt_core.rng import rng_for
from bevt_core.views.replay import apply_view, decode_jpeg, encode_jpeg, random_view, shrink_short_side
from schemas.models import BlockMask, MaskConfig, TubeMask
from schemas.views import ViewDistribution

ROUNDS, CLIPS, IMAGES, FRAMES, SHORT_SIDE_PX, QUALITY = 7, 8, 64, 16, 256, 90
TUBE, BLOCK = TubeMask(kind="tube", ratio=0.5), BlockMask(kind="block", ratio=0.5)
PLAIN = ViewDistribution(crop_px=224, short_side_min_px=256, short_side_max_px=320, flip_share=0.5, jitter=0.0)
JITTERED = PLAIN.model_copy(update={"jitter": 0.4})
MODEL_TFLOP = 14.0  # of a joint step of Swin-B on CLIPS clips and IMAGES images, without activation checkpointing
# bf16 TFLOP/s that a joint step may reach: estimates. An H100 takes 89 ms a step when the times of its operations are
# added up, with fused attention; the others are scaled by their peaks
REACHED_TFLOPS = {"A100": 50.0, "H100": 157.0, "B200": 357.0}


def main() -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sys.argv[1:]] or [noise(i) for i in range(8)]
    frames_HWC = [shrink_short_side(picture, SHORT_SIDE_PX) for picture in pictures]
    stored = [(encode_jpeg(frame_HWC, QUALITY), frame_HWC.shape[:2]) for frame_HWC in frames_HWC]

    def sample(key: int, frames: int, views: ViewDistribution, mask: MaskConfig) -> None:
        rng, (jpeg, size_HW) = rng_for("loader cores", key), stored[key % len(stored)]
        view = random_view(views, rng, *size_HW)
        clip_THWC = np.stack([apply_view(decode_jpeg(jpeg), view, "compiled") for _ in range(frames)])
        draw_mask(mask, rng, (max(1, frames // 2), 14, 14), clip_THWC)

    clip_ms = cpu_ms(CLIPS, lambda key: sample(key, FRAMES, PLAIN, TUBE))
    image_ms = cpu_ms(IMAGES, lambda key: sample(key, 1, PLAIN, BLOCK))
    jittered_ms = cpu_ms(IMAGES, lambda key: sample(key, 1, JITTERED, BLOCK))
    print(f"CPU ms: clip of {FRAMES} frames {clip_ms:.1f}, image {image_ms:.2f}, jittered image {jittered_ms:.2f}")
    step_ms = CLIPS * clip_ms + IMAGES * jittered_ms
    print(f"a joint step of {CLIPS} clips and {IMAGES} images: {step_ms:.0f} ms of a core")
    for card, tflops in REACHED_TFLOPS.items():
        gpu_ms = MODEL_TFLOP / tflops * 1e3
        print(f"{card:12s} {gpu_ms:4.0f} ms a step at {tflops:3.0f} TFLOP/s: {step_ms / gpu_ms:4.1f} cores")


def cpu_ms(samples: int, make: Callable[[int], None]) -> float:
    """Return the CPU milliseconds a sample, the median of ROUNDS rounds after one that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        for key in range(samples):
            make(key)
        times.append((time.process_time() - began) / samples * 1e3)
    return statistics.median(times[1:])


def noise(key: int) -> np.ndarray:
    coarse = rng_for("loader cores", key).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((341, SHORT_SIDE_PX), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
