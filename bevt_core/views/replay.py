"""Draw spatial views once and replay them, so that a model is trained on exactly the pixels that were tokenized.

Tokenizing and training both call `apply_view` on the decoded bytes of the stored JPEG. Resampling is Pillow's on uint8,
or compiled code with the same integer arithmetic: the same bits on every machine. Jitter is Pillow's too, in float32.
"""

import numpy as np
import simplejpeg
from PIL import Image

from bevt_core.rng import rng_for
from bevt_core.views.jitter import JITTER_OPS, jitter
from bevt_core.views.resample import Backend, Box, pixels_read, resize_box
from schemas.errors import DAMAGED, UserError
from schemas.ranges import MAX_FRAME_PIXELS
from schemas.views import JitterOp, View, ViewDistribution, ViewSpec


def draw_view(spec: ViewSpec, sample_id: str, index: int, height: int, width: int) -> View:
    """Return view `index` of the sample, for stored frames of `height` x `width` px.

    View 0 is the centre crop at the smallest scale, without flip and jitter. A view depends only on (spec.seed,
    sample_id, index) and the sizes, so views can be added later without changing existing ones.
    """
    if not 0 <= index < spec.num_views:
        raise ValueError(f"view {index} of a spec with {spec.num_views} views")
    if index == 0:
        scaled_h, scaled_w = scaled_size(height, width, spec.short_side_min_px)
        top_px, left_px = (scaled_h - spec.crop_px) // 2, (scaled_w - spec.crop_px) // 2
        return View(
            short_side_px=spec.short_side_min_px,
            top_px=top_px,
            left_px=left_px,
            crop_px=spec.crop_px,
            flip=False,
        )
    return random_view(spec, rng_for("view", spec.seed, sample_id, index), height, width)


def random_view(spec: ViewDistribution, rng: np.random.Generator, height: int, width: int) -> View:
    """Draw a view of stored frames of `height` x `width` px."""
    short_side_px = int(rng.integers(spec.short_side_min_px, spec.short_side_max_px + 1))
    scaled_h, scaled_w = scaled_size(height, width, short_side_px)
    top_px = int(rng.integers(0, scaled_h - spec.crop_px + 1))
    left_px = int(rng.integers(0, scaled_w - spec.crop_px + 1))
    flip = bool(rng.random() < spec.flip_share)
    operations: tuple[tuple[JitterOp, float], ...] = ()
    if spec.jitter > 0:  # torchvision ColorJitter: factor uniform in 1 -+ strength, operations in random order
        order = rng.permutation(len(JITTER_OPS))
        factors = rng.uniform(1 - spec.jitter, 1 + spec.jitter, size=len(JITTER_OPS))
        operations = tuple((JITTER_OPS[i], float(factors[i])) for i in order)
    return View(
        short_side_px=short_side_px,
        top_px=top_px,
        left_px=left_px,
        crop_px=spec.crop_px,
        flip=flip,
        jitter=operations,
    )


def apply_view(frame_HWC: np.ndarray, view: View, backend: Backend = "pillow") -> np.ndarray:
    """Apply a view to one decoded frame: uint8 (H, W, 3) -> uint8 (crop_px, crop_px, 3).

    Jitter comes first: contrast depends on the mean of the uncropped picture, as in the original.
    Scaling and cropping are one bicubic resampling of the crop's box, so only the crop's pixels are computed. The
    result does not depend on the backend; `backend_for` names the faster one.
    """
    height, width = frame_HWC.shape[:2]
    box = box_of(view, height, width)
    if view.jitter:
        frame_HWC = jitter(frame_HWC, view.jitter, pixels_read(height, width, box, view.crop_px), backend)
    return resize_box(frame_HWC, box, view.crop_px, backend, flip=view.flip)


def box_of(view: View, height: int, width: int) -> Box:
    """Return a view's crop as a box in the unscaled frame of `height` x `width` px."""
    scaled_h, scaled_w = scaled_size(height, width, view.short_side_px)
    bottom_px, right_px = view.top_px + view.crop_px, view.left_px + view.crop_px
    return (
        view.left_px * width / scaled_w,
        view.top_px * height / scaled_h,
        min(right_px * width / scaled_w, width),
        min(bottom_px * height / scaled_h, height),
    )


def halve(frame_HWC: np.ndarray, input_px: int) -> np.ndarray:
    """Scale a square view to the tokenizer's input of `input_px`, with Lanczos on uint8 (original: 224 -> 112).

    A view that already has this size is unchanged: PeCo reads all 224 px of a view, DALL-E half of them.
    """
    return np.asarray(Image.fromarray(frame_HWC).resize((input_px, input_px), Image.Resampling.LANCZOS))


def scaled_size(height: int, width: int, short_side_px: int) -> tuple[int, int]:
    """Return (height, width) scaled to a short side of `short_side_px`, the long side rounded."""
    if height <= width:
        return short_side_px, max(short_side_px, round(width * short_side_px / height))
    return max(short_side_px, round(height * short_side_px / width)), short_side_px


def shrink_short_side(frame_HWC: np.ndarray, short_side_px: int) -> np.ndarray:
    """Scale a frame down to the short side, bicubic with antialiasing; a smaller frame is returned unchanged."""
    height, width = frame_HWC.shape[:2]
    if min(height, width) <= short_side_px:
        return frame_HWC
    scaled_h, scaled_w = scaled_size(height, width, short_side_px)
    return np.asarray(Image.fromarray(frame_HWC).resize((scaled_w, scaled_h), Image.Resampling.BICUBIC))


def encode_jpeg(frame_HWC: np.ndarray, quality: int) -> bytes:
    """Encode an RGB frame as JPEG 4:2:0 (libjpeg-turbo)."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame_HWC), quality=quality, colorsubsampling="420")
    return data


def decode_jpeg(data: bytes | memoryview | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to RGB uint8 (H, W, 3), with the accurate DCT and upsampling: the fast ones may differ between machines.

    `size` is the expected (height, width), if known. Raises UserError, before any memory is allocated, for a frame of
    a different size or with more than MAX_FRAME_PIXELS; ValueError for damaged bytes.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data)  # 1 us; decoding 256 x 340 px takes 500 us
    if height * width > MAX_FRAME_PIXELS:
        raise UserError(
            f"a stored frame of {height} x {width} px, expected at most {MAX_FRAME_PIXELS} pixels; {DAMAGED}"
        )
    if size is not None and (height, width) != tuple(size):
        raise UserError(
            f"a stored frame of {height} x {width} px, but its sample has {size[0]} x {size[1]} px; {DAMAGED}"
        )
    frame_HWC: np.ndarray = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    return frame_HWC
