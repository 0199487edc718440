"""Reconstruction quality of a tokenizer: PSNR, SSIM, and the share of the vocabulary in use."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.codes import perplexity

STILL_LEVELS = 2.0  # of 255, mean over a region
LOSSLESS_DB = 100.0  # reported for an exactly reconstructed frame, instead of infinity


class Quality:
    """Quality measures accumulated over batches; `result` returns them."""

    def __init__(self, vocab_size: int) -> None:
        self.counts_V = torch.zeros(vocab_size, dtype=torch.int64)
        self.errors: list[float] = []  # mean squared, per frame, of values in 0..1
        self.similarities: list[float] = []

    def add(self, frames_NHWC: Tensor, decoded_NHWC: Tensor | None, ids_Nhw: Tensor) -> None:
        """Add a batch: uint8 frames, their reconstructions (None without a decoder), and their ids."""
        self.counts_V += torch.bincount(ids_Nhw.flatten().cpu(), minlength=len(self.counts_V))
        if decoded_NHWC is None:
            return
        for frame_HWC, decoded_HWC in zip(frames_NHWC.cpu().numpy(), decoded_NHWC.cpu().numpy(), strict=True):
            self.errors.append(mean_squared_error(frame_HWC, decoded_HWC))
            self.similarities.append(ssim(frame_HWC, decoded_HWC))

    def result(self) -> dict[str, float | None]:
        """The measures over all frames so far; at least one frame is required.

        The first three are None without reconstructions. `psnr_db` is the mean over frames, `psnr_pooled_db` the PSNR
        of the mean error over all pixels, `ssim` the mean over frames; `perplexity`, `codebook_used_share` and
        `dead_codes` (never used) are computed from the ids.
        """
        reconstructed = bool(self.errors)
        return {
            "psnr_db": float(np.mean([psnr_db(error) for error in self.errors])) if reconstructed else None,
            "psnr_pooled_db": psnr_db(float(np.mean(self.errors))) if reconstructed else None,
            "ssim": float(np.mean(self.similarities)) if reconstructed else None,
            "perplexity": float(perplexity(self.counts_V)),
            "codebook_used_share": float((self.counts_V > 0).double().mean()),
            "dead_codes": int((self.counts_V == 0).sum()),
        }


def measure(tokenizer: Tokenizer, frames_NHWC: Tensor) -> dict[str, float | None]:
    """Encode, and decode if possible, uint8 frames at the tokenizer's input size; returns their `Quality.result`."""
    quality = Quality(tokenizer.vocab_size)
    for chunk_NHWC in frames_NHWC.split(tokenizer.pass_frames):
        ids_Nhw = tokenizer.encode(chunk_NHWC)
        quality.add(chunk_NHWC, tokenizer.decode(ids_Nhw) if tokenizer.can_decode else None, ids_Nhw)
    return quality.result()


class Still(NamedTuple):
    """How tokens behave where nothing moves: the share of regions that are still, and of those that keep their id."""

    still_share: float | None  # None without pairs
    ids_kept_when_still: float | None  # None without still regions


def measure_still(tokenizer: Tokenizer, pairs_M2PPC: Tensor) -> Still:
    """Compare the ids of M pairs of consecutive uint8 frames at the tokenizer's input size.

    A region, the pixels of one token, is still if its mean absolute difference is at most STILL_LEVELS. What moves
    outside the region may change its id too: networks see more than the pixels of one token.
    """
    if not len(pairs_M2PPC):
        return Still(None, None)
    first_Mhw, second_Mhw = tokenizer.encode(pairs_M2PPC.flatten(0, 1)).cpu().unflatten(0, (-1, 2)).unbind(1)
    changes_MPP = (pairs_M2PPC[:, 0].float() - pairs_M2PPC[:, 1].float()).abs().mean(dim=-1)
    still_Mhw = F.avg_pool2d(changes_MPP, tokenizer.stride) <= STILL_LEVELS
    kept = (first_Mhw == second_Mhw)[still_Mhw]
    return Still(float(still_Mhw.double().mean()), float(kept.double().mean()) if len(kept) else None)


def psnr_db(mean_squared: float) -> float:
    """Peak signal-to-noise ratio of values in 0..1; at most LOSSLESS_DB."""
    return min(LOSSLESS_DB, -10 * math.log10(max(mean_squared, 1e-30)))


def mean_squared_error(a_HWC: np.ndarray, b_HWC: np.ndarray) -> float:
    """Mean squared error of two uint8 frames, scaled to 0..1."""
    return float(np.square((a_HWC.astype(np.float64) - b_HWC) / 255).mean())


def ssim(a_HWC: np.ndarray, b_HWC: np.ndarray) -> float:
    """Structural similarity of two uint8 frames: Gaussian window of 1.5 px, mean over colours (Wang et al. 2004)."""
    from skimage.metrics import structural_similarity  # not at the top: training imports this module, not scikit-image

    return float(
        structural_similarity(
            a_HWC, b_HWC, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
    )
