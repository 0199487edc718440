"""Tokenizing inside the training step, as in the original: new views in every epoch, tokens computed on the device.

Legend: B samples, T frames of a clip, H W pixels, P the tokenizer's input side, C channels, h w the token grid.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.rng import rng_for
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.views.replay import halve, random_view
from schemas.models import MaskConfig
from schemas.tokens import TokenizerIdentity
from schemas.views import View, ViewDistribution
from trainer.data.clip_dataset import ClipDataset


@dataclass(frozen=True)
class OnlineSource:
    """A frame store and a tokenizer: the data source of a stream without stored tokens."""

    frames: FrameStore
    tokenizer: Tokenizer
    views: ViewDistribution

    @property
    def path(self) -> AnyPath:
        return self.frames.path

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        return (self.frames,)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the frame store's digest and the tokenizer's weights."""
        return self._with_weights(self.frames.digest)

    @property
    def generations(self) -> dict[str, int]:
        """The number of parts before each extension of the frames, by the digest of that time."""
        found = self.frames.manifest.generations
        return {self._with_weights(generation.manifest_digest): generation.num_parts for generation in found}

    def _with_weights(self, frames_digest: str) -> str:
        return hashlib.sha256(f"{frames_digest}\0{self.tokenizer.weights_sha256}".encode()).hexdigest()

    @functools.cached_property
    def identity(self) -> TokenizerIdentity:
        return self.tokenizer.identity()

    @property
    def crop_px(self) -> int:
        return self.views.crop_px

    def dataset(self, **options: Any) -> "FreshViewDataset":
        return FreshViewDataset(self.frames, self.views, self.identity, **options)


class FreshViewDataset(ClipDataset):
    """Clips under new views in every epoch, which are functions of (seed, epoch, sample).

    `frames` uint8 (T, P, P, C) are the tokenizer's input: the view's frames, scaled as in the pipeline.
    """

    def __init__(
        self,
        frames: FrameStore,
        views: ViewDistribution,
        tokenizer: TokenizerIdentity,
        *,
        name: str,
        seed: int,
        clip_frames: int,
        tubelet: int,
        mask: MaskConfig,
        hidden_multiple: int = 1,
    ) -> None:
        super().__init__(
            frames,
            name=name,
            seed=seed,
            clip_frames=clip_frames,
            tubelet=tubelet,
            mask=mask,
            hidden_multiple=hidden_multiple,
        )
        self.views, self.grid, self.input_px = views, tokenizer.grid, tokenizer.input_px
        self.height, self.width = (frames.samples[side].to_numpy() for side in ("height", "width"))

    def view(self, epoch: int, position: int) -> View:
        rng = rng_for("fresh view", *self.key, epoch, self.sample_id(position))
        return random_view(self.views, rng, int(self.height[position]), int(self.width[position]))

    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        return {"frames": torch.from_numpy(halved(clip_THWC, self.input_px))}


def halved(clip_THWC: Iterable[np.ndarray], input_px: int) -> np.ndarray:
    """Scale every frame to the tokenizer's size: uint8 (T, P, P, C)."""
    return np.stack([halve(frame_HWC, input_px) for frame_HWC in clip_THWC])


def tokens_in_step(tokenizer: Tokenizer, frames_BTPPC: Tensor) -> Tensor:
    """Tokenize a batch on its device, in the tokenizer's own precision and without a gradient: int64 (B, T, h, w)."""
    with torch.autocast(frames_BTPPC.device.type, enabled=False):
        tokens_Nhw = tokenizer.encode(frames_BTPPC.flatten(0, 1))
    copy_Nhw = tokens_Nhw.clone()  # an inference tensor cannot be saved for backward
    tokens_BThw: Tensor = copy_Nhw.unflatten(0, frames_BTPPC.shape[:2])
    return tokens_BThw
