"""Random crops of stored frames for tokenizer training, and the choice of held-out sources.

Legend: N frames, H W pixels, C channels (RGB).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.rng import rng_for
from bevt_core.storage.objects import AnyPath
from bevt_core.views.replay import decode_jpeg
from trainer.clips.augmentation.crops import Box, resize

HELD_OUT_SHARE = 0.05  # of the sources, drawn by name: none of their frames is trained on
FLIP_SHARE = 0.5


@dataclass(frozen=True)
class FrameCrops:
    """Random square crops of random stored frames, determined by (key, epoch, number)."""

    folders: tuple[AnyPath, ...]
    input_px: int
    key: tuple[object, ...]  # identifies the run: its seed
    held_out: bool  # True: crops of the held-out sources; False: of all others

    @functools.cached_property
    def _stores(self) -> list[FrameStore]:
        return [FrameStore(folder) for folder in self.folders]

    @functools.cached_property
    def _pools(self) -> NDArray[np.int64]:
        """(store, row of its samples) of each training or held-out sample: (N, 2)."""
        pools = [np.zeros((0, 2), np.int64)]
        for number, store in enumerate(self._stores):
            sources = store.samples["source"]
            held_out = pa.array(held_out_sources(sources.to_pylist()), sources.type)
            is_held_out = pc.is_in(sources, value_set=held_out).to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(is_held_out == self.held_out)
            pools.append(np.stack([np.full_like(rows, number), rows], axis=1))
        return np.concatenate(pools)

    def __len__(self) -> int:
        return len(self._pools)

    def __getitem__(self, at: tuple[object, int]) -> dict[str, Any]:
        """Return `frame` uint8 (input_px, input_px, C) and `sample_id`."""
        rng = rng_for("tokenizer-crop", *self.key, *at)
        number, row = self._pools[rng.integers(len(self._pools))].tolist()
        store = self._stores[number]
        names = ("part", "frame_start", "num_frames", "height", "width", "source")
        part, first, count, height, width, source = (store.samples[name][row].as_py() for name in names)
        jpeg = store.read_jpegs(part, first + int(rng.integers(count)), 1)[0]
        frame_HWC = decode_jpeg(jpeg, (height, width))
        return {"frame": random_crop(frame_HWC, self.input_px, rng), "sample_id": source}

    def first(self, count: int, key: object) -> Tensor:
        """Stack the first `count` crops for `key`, which replaces the epoch: uint8 (N, H, W, C)."""
        return torch.stack([self[key, number]["frame"] for number in range(count)])

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self.__dataclass_fields__, "_pools")}


def random_crop(frame_HWC: np.ndarray, size_px: int, rng: np.random.Generator) -> Tensor:
    """Cut a random square with a side from `size_px` to the frame's short side, and scale it to `size_px`.

    The network thus sees frames at scales from the original resolution down to the full short side in one crop.
    """
    height, width, _ = frame_HWC.shape
    short = min(height, width)
    side = int(rng.integers(min(size_px, short), short, endpoint=True))
    top, left = rng.integers((height - side, width - side), endpoint=True)
    box = Box(int(top), int(left), side, side)
    crop_HWC = resize(box.cut(torch.from_numpy(frame_HWC)[None]), size_px, size_px)[0]
    return (crop_HWC.flip(1) if rng.random() < FLIP_SHARE else crop_HWC).contiguous()


def held_out_sources(sources: Sequence[str]) -> frozenset[str]:
    """Choose HELD_OUT_SHARE of the sources, at least one, at random by name."""
    drawn = sorted(sources, key=lambda source: rng_for("tokenizer-held-out", source).random())
    return frozenset(drawn[: max(1, round(HELD_OUT_SHARE * len(sources)))])
