"""Clips of a frame store, determined by (seed, epoch, sample): pixels under a view, and a mask.

Legend: B samples, T frames of a clip, H W pixels or token grid, C channels. Masks are at tubelet resolution in time.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_rows import BadRow
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import draw_mask
from bevt_core.rng import rng_for
from bevt_core.storage.interface import storage_of
from bevt_core.storage.part_cache import ReadAhead
from bevt_core.storage.remote import Entry
from bevt_core.views.replay import apply_view, decode_jpeg
from bevt_core.views.resample import backend_for
from schemas.errors import StorageError
from schemas.models import MaskConfig
from schemas.views import View
from trainer.data.errors import SampleError
from trainer.data.order import StreamOrder


class ClipDataset(Dataset[dict[str, Any]], ABC):
    """Clips of a frame store by (epoch, position): pixels under a view, a new mask, and the `targets`.

    `tubelet` is the number of frames that one mask position covers in time. A pool shorter than `clip_frames` is
    repeated, as in the original's sampler. Clip start and mask are functions of (seed, epoch, sample).
    """

    grid: tuple[int, int]  # tokens per frame: rows, columns

    def __init__(
        self,
        frames: FrameStore,
        *,
        name: str,
        seed: int,
        clip_frames: int,
        tubelet: int,
        mask: MaskConfig,
        hidden_multiple: int = 1,
    ) -> None:
        self.frames = FrameStore(frames.path)  # a fresh instance, small when it is pickled
        self.path = frames.path
        self.key = (seed, name)
        self.clip_frames, self.tubelet, self.mask = clip_frames, tubelet, mask
        self.hidden_multiple = hidden_multiple  # a batch's hidden positions are padded to a multiple of this
        index = frames.index
        self.part = index["part"].to_numpy()
        self.frame_start = index["frame_start"].to_numpy()
        self.num_frames = index["num_frames"].to_numpy()
        self.sizes_N2 = np.stack([index["height"].to_numpy(), index["width"].to_numpy()], axis=1)
        self.sample_ids = index["sample_id"].combine_chunks()
        self.part_sizes = np.bincount(self.part, minlength=frames.manifest.num_parts).astype(np.int64)
        self.part_first = np.cumsum(self.part_sizes) - self.part_sizes
        self.backend = backend_for(len(self) * clip_frames)  # chosen by the number of views in an epoch
        self._read_ahead = ReadAhead()

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        """The stores that clips are read from."""
        return (self.frames,)

    @abstractmethod
    def view(self, epoch: int, position: int) -> View:
        """Return the view that all frames of the clip share."""

    @abstractmethod
    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        """Return the clip's tokens, or the input of their tokenizer; `pool_T` are the clip's frames in the pool."""

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        """Return `clip` uint8 (T, H, W, C), `mask` bool (T / tubelet, h, w), `sample_id`, and the `targets`."""
        epoch, position = at
        try:
            return self._sample(epoch, position)
        except Exception as error:
            where = f"sample {self.sample_id(position)!r} in {part_name(int(self.part[position]))}"
            if isinstance(error, BadRow):
                raise SampleError(str(error)) from error
            if isinstance(error, StorageError):
                raise SampleError(f"{where}: {error}") from error
            raise SampleError(
                f"{where} of {self.path}: {type(error).__name__}: {error}; run `bevt verify` on this dataset"
            ) from error

    def sample_id(self, position: int) -> str:
        return str(self.sample_ids[position].as_py())

    def _sample(self, epoch: int, position: int) -> dict[str, Any]:
        rng = self._rng(epoch, position)
        start, count = self._range(position, rng)
        view = self.view(epoch, position)
        jpegs = self.frames.read_jpegs(int(self.part[position]), int(self.frame_start[position]) + start, count)
        clip_THWC = np.empty((self.clip_frames, view.crop_px, view.crop_px, 3), np.uint8)
        height, width = self.sizes_N2[position].tolist()
        for i, jpeg in enumerate(jpegs):  # one frame at a time, so that it stays in the CPU's cache
            clip_THWC[i::count] = apply_view(decode_jpeg(jpeg, (height, width)), view, self.backend)
        grid_THW = (self.clip_frames // self.tubelet, *self.grid)
        return {
            "clip": torch.from_numpy(clip_THWC),
            "mask": torch.from_numpy(draw_mask(self.mask, rng, grid_THW, clip_THWC)),
            "sample_id": self.sample_id(position),
            **self.targets(epoch, position, start + np.arange(self.clip_frames) % count, clip_THWC),
        }

    def _rng(self, epoch: int, position: int) -> np.random.Generator:
        return rng_for("clip", *self.key, epoch, self.sample_id(position))

    def _range(self, position: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the clip's frames from the pool; return the first one and their number."""
        pool = int(self.num_frames[position])
        return int(rng.integers(max(pool - self.clip_frames, 0) + 1)), min(self.clip_frames, pool)

    def place(self, epoch: int, position: int) -> tuple[int, int, int, View]:
        """Return the source of a sample's pixels: part, first frame in the pool, number of frames, and view."""
        start, count = self._range(position, self._rng(epoch, position))
        return int(self.part[position]), start, count, self.view(epoch, position)

    def expect(self, order: StreamOrder, step: int) -> None:
        """Start copying the parts that `step` and the next steps read to the local cache, if their store is remote."""
        remote = [store for store in self.stores if storage_of(store.path).is_remote]
        if remote:
            entries = [store.location(part) for part in order.parts_ahead(step) for store in remote]
            self._read_ahead.want([entry for entry in entries if isinstance(entry, Entry)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read_ahead": ReadAhead()}
