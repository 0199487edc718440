"""Masks over the token grid, True = hidden: the positions that the model must predict.

BEVT, https://arxiv.org/abs/2112.01529, section 3.2 and table 9. A mask depends only on its random generator, not on the
batch or the worker. `hidden_positions` turns the masks of a batch into the list of positions for the loss.

Internally, one frame's mask is an integer with a bit per position, row by row, so that placing a block and counting the
positions it adds are single operations.

Legend: T tubelets, H W token grid, B masks of a batch.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from schemas.models import BlockMask, FrameDiffMask, MaskConfig, Random3dMask, RandomFrameMask, TubeMask

Size2 = tuple[int, int]  # (H, W)
Size3 = tuple[int, int, int]  # (T, H, W)

NO_POSITION = -1  # pads a list of positions
TRIES_PER_BLOCK = 10  # BEiT: after so many failures in a row the mask is left as it is


def blockwise(
    rng: np.random.Generator,
    grid_HW: Size2,
    num_masked: int,
    min_block: int = 16,
    max_block: int | None = None,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
    """Cover up to `num_masked` positions by random rectangles (BEiT, algorithm 1): bool (H, W).

    Rectangles have `min_block` to `max_block` positions, or fewer when few positions are left to cover. As in the
    original code `num_masked` is never exceeded, so many masks are a few positions short.
    """
    bits = _blockwise_bits(_uniforms(rng), grid_HW, num_masked, min_block, max_block or num_masked, aspect)
    mask_HW: np.ndarray = _unpack([bits], grid_HW)[0]
    return mask_HW


def tube(
    rng: np.random.Generator,
    grid_THW: Size3,
    num_masked: int,
    *,
    length_range: tuple[float, float] = (0.5, 1.0),
    wrap: bool = True,
    min_block: int = 16,
) -> np.ndarray:
    """Hide the same blockwise mask of `num_masked` positions in consecutive frames: bool (T, H, W).

    The tube's length is uniform between the shares `length_range` of T. With `wrap` it starts anywhere and continues
    at the clip's beginning, as in the original code; without, it lies within the clip, as in the paper.
    """
    mask_THW: np.ndarray = tube_masks(
        [rng], grid_THW, num_masked, length_range=length_range, wrap=wrap, min_block=min_block
    )[0]
    return mask_THW


def tube_masks(
    rngs: Iterable[np.random.Generator],
    grid_THW: Size3,
    num_masked: int,
    *,
    length_range: tuple[float, float] = (0.5, 1.0),
    wrap: bool = True,
    min_block: int = 16,
) -> np.ndarray:
    """Draw one `tube` per generator: bool (B, T, H, W)."""
    T, *grid_HW = grid_THW
    shortest, longest = (min(max(int(share * T), 1), T) for share in length_range)
    aspect = (0.3, 1 / 0.3)
    frame_bits, starts, lengths = [], [], []
    for rng in rngs:
        draws = _uniforms(rng)
        frame_bits.append(_blockwise_bits(draws, (grid_HW[0], grid_HW[1]), num_masked, min_block, num_masked, aspect))
        length = shortest + int(next(draws) * (longest - shortest + 1))
        starts.append(int(next(draws) * (T if wrap else T - length + 1)))
        lengths.append(length)
    since_start_BT = (np.arange(T) - np.array(starts)[:, None]) % T
    in_tube_BT = since_start_BT < np.array(lengths)[:, None]
    masks_BTHW: np.ndarray = in_tube_BT[:, :, None, None] & _unpack(frame_bits, (grid_HW[0], grid_HW[1]))[:, None]
    return masks_BTHW


def random_3d(rng: np.random.Generator, grid_THW: Size3, num_masked: int) -> np.ndarray:
    """Hide single positions anywhere in the clip, `num_masked` per frame on average: bool (T, H, W)."""
    mask = np.zeros(math.prod(grid_THW), bool)
    mask[rng.permutation(mask.size)[: num_masked * grid_THW[0]]] = True
    return mask.reshape(grid_THW)


def random_frame(rng: np.random.Generator, grid_THW: Size3, num_masked: int) -> np.ndarray:
    """Hide whole frames, as many as give `num_masked` positions per frame on average: bool (T, H, W)."""
    T, H, W = grid_THW
    hidden_T = rng.permutation(T) < round(num_masked * T / (H * W))
    return np.broadcast_to(hidden_T[:, None, None], grid_THW).copy()


def frame_diff(rng: np.random.Generator, grid_THW: Size3, num_masked: int, *, frames_THWC: np.ndarray) -> np.ndarray:
    """Hide motion: the positions where consecutive frames differ most, `num_masked` per frame on average.

    `frames_THWC` are the clip's pixels; ties, as in a still clip, are broken at random. Returns bool (T, H, W).
    """
    motion = motion_energy(frames_THWC, grid_THW).ravel()
    order = np.lexsort((rng.random(motion.size), -motion))
    mask = np.zeros(motion.size, bool)
    mask[order[: num_masked * grid_THW[0]]] = True
    return mask.reshape(grid_THW)


Masker = Callable[..., np.ndarray]  # (rng, grid_THW, num_masked, ...) -> bool (T, H, W)

MASKERS: dict[str, Masker] = {
    "tube": tube,
    "random_3d": random_3d,
    "frame_diff": frame_diff,
    "random_frame": random_frame,
}


# the masks of the paper's Table 9, and the mask of images; arguments: ratio and block size of a recipe
STRATEGIES: dict[str, Callable[[float, int], MaskConfig]] = {
    "tube": lambda ratio, block: TubeMask(kind="tube", ratio=ratio, min_block=block),
    "random_3d": lambda ratio, block: Random3dMask(kind="random_3d", ratio=ratio),
    "random_frame": lambda ratio, block: RandomFrameMask(kind="random_frame", ratio=ratio),
    "frame_diff": lambda ratio, block: FrameDiffMask(kind="frame_diff", ratio=ratio),
    "block": lambda ratio, block: BlockMask(kind="block", ratio=ratio, min_block=block),
}


def reads_pixels(config: MaskConfig) -> bool:
    """Return whether masks of this kind depend on the clip's pixels."""
    return config.kind == "frame_diff"


def draw_mask(
    config: MaskConfig, rng: np.random.Generator, grid_THW: Size3, frames_THWC: np.ndarray | None = None
) -> np.ndarray:
    """Draw the mask of one sample: bool (T, H, W), True = hidden = predicted.

    `frames_THWC`, the clip's pixels, are needed if the mask `reads_pixels`.
    """
    T, H, W = grid_THW
    num_masked = int(config.ratio * H * W)
    if isinstance(config, BlockMask):
        return blockwise(rng, (H, W), num_masked, config.min_block)[None].repeat(T, axis=0)
    options: dict[str, Any] = {"frames_THWC": frames_THWC} if reads_pixels(config) else {}
    if isinstance(config, TubeMask):
        options = {"min_block": config.min_block, "length_range": config.length_share}
    return MASKERS[config.kind](rng, grid_THW, num_masked, **options)


def motion_energy(frames_THWC: np.ndarray, grid_THW: Size3) -> np.ndarray:
    """Mean absolute change of brightness since the previous frame, per grid cell: float32 (T, H, W).

    The first frame gets its successor's value.
    """
    frames = frames_THWC.astype(np.float32).mean(axis=-1)
    change = np.abs(np.diff(frames, axis=0))
    change = np.concatenate([change[:1], change]) if len(change) else np.zeros_like(frames)
    T, H, W = grid_THW
    t, h, w = (size // cells for size, cells in zip(frames.shape, grid_THW, strict=True))
    energy_THW: np.ndarray = change[: T * t, : H * h, : W * w].reshape(T, t, H, h, W, w).mean(axis=(1, 3, 5))
    return energy_THW


def _blockwise_bits(
    draws: Iterator[float],
    grid_HW: Size2,
    num_masked: int,
    min_block: int,
    max_block: int,
    aspect: tuple[float, float],
) -> int:
    """The mask of `blockwise` as bits. `draws` are uniform on [0, 1)."""
    H, W = grid_HW
    log_aspect, log_range = math.log(aspect[0]), math.log(aspect[1] / aspect[0])
    mask, missing, tries = 0, num_masked, 0
    while missing > 0 and tries < TRIES_PER_BLOCK:
        tries += 1
        largest = min(missing, max_block)
        area = min_block + next(draws) * (largest - min_block)  # below min_block if few are missing, as in BEiT
        ratio = math.exp(log_aspect + next(draws) * log_range)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height >= H or width >= W:
            continue
        top, left = int(next(draws) * (H - height + 1)), int(next(draws) * (W - width + 1))
        block = _rectangle(height, width, W) << (top * W + left)
        num_new = (block & ~mask).bit_count()
        if 0 < num_new <= largest:
            mask, missing, tries = mask | block, missing - num_new, 0
    return mask


@functools.cache
def _rectangle(height: int, width: int, grid_W: int) -> int:
    """The bits of a rectangle in the grid's top left corner."""
    return sum(((1 << width) - 1) << (row * grid_W) for row in range(height))


def _unpack(frame_bits: Sequence[int], grid_HW: Size2) -> np.ndarray:
    """Bits to bool (B, H, W)."""
    H, W = grid_HW
    num_bytes = -(-H * W // 8)
    packed = np.frombuffer(b"".join(bits.to_bytes(num_bytes, "little") for bits in frame_bits), np.uint8)
    bits_BN = np.unpackbits(packed.reshape(-1, num_bytes), axis=1, count=H * W, bitorder="little")
    return bits_BN.view(bool).reshape(-1, H, W)


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Uniform floats on [0, 1), drawn in blocks, because a call into numpy costs more than a number."""
    while True:
        yield from rng.random(64).tolist()


def stretch_mask(mask_BTHW: Tensor, grid_THW: Sequence[int]) -> Tensor:
    """Repeat a mask to a finer grid, e.g. from 14 x 14 token positions to the stem's 56 x 56.

    Raises ValueError if the grid is not a multiple of the mask.
    """
    if any(fine % coarse for fine, coarse in zip(grid_THW, mask_BTHW.shape[1:], strict=True)):
        raise ValueError(
            f"a mask of {tuple(mask_BTHW.shape[1:])} (T, H, W) cannot cover a grid of {tuple(grid_THW)}: "
            "make it at tubelet resolution, on the token grid"
        )
    for axis, size in enumerate(grid_THW, start=1):
        mask_BTHW = mask_BTHW.repeat_interleave(size // mask_BTHW.shape[axis], dim=axis)
    return mask_BTHW


def hidden_positions(mask_BTHW: Tensor, frames: int, multiple: int = 1) -> Tensor:
    """Return the positions that a mask hides in the flattened tokens of all frames (B, frames, H, W): int64 (M,).

    A hidden tubelet hides all of its frames. The list is padded with -1 to a multiple of `multiple`. The call
    synchronizes with the mask's device, so it belongs in the loader, on the CPU.
    """
    hidden_M = stretch_mask(mask_BTHW, (frames, *mask_BTHW.shape[2:])).flatten().nonzero().squeeze(1)
    return F.pad(hidden_M, (0, -len(hidden_M) % multiple), value=NO_POSITION)
