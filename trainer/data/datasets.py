"""Shards -> training batches. A batch is a function of (seed, step, rank, world size): there is nothing to save.

Legend: B samples, T frames of a clip, H W pixels or token grid, C channels. Masks are at tubelet resolution in time.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_rows import BadRow
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_rows import PartView, check_rows
from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import MASKERS, blockwise
from bevt_core.models.bevt import hidden_positions
from bevt_core.models.windows import shape_constant
from bevt_core.rng import rng_for
from bevt_core.storage.objects import ObjectPath
from bevt_core.storage.part_cache import Entry, ReadAhead
from bevt_core.views.replay import apply_view, decode_jpeg
from schemas.errors import StorageError
from schemas.models import BlockMask, MaskConfig
from schemas.views import View
from trainer.data.loader import SampleError, make_loader
from trainer.data.order import StreamOrder, rank_slice, view_of_epoch
from trainer.engine.task import Batch, split

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of 0..255 RGB, as in the original's img_norm_cfg
IMAGENET_STD = (58.395, 57.12, 57.375)


class ClipDataset(Dataset, ABC):
    """Clips of a frame store, by (epoch, position): pixels under a view, a fresh mask, and what the targets come from.

    `tubelet` is the number of frames that one mask position covers in time. A pool shorter than `clip_frames` loops, as
    the original's sampler does. Clip start and mask follow (seed, epoch, sample).
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
        self.frames = FrameStore(frames.path)  # a copy that stays small when it is pickled
        self.path = frames.path
        self.key = (seed, name)
        self.clip_frames, self.tubelet, self.mask = clip_frames, tubelet, mask
        self.hidden_multiple = hidden_multiple  # that the number of hidden positions of a batch is padded to
        index = frames.index
        self.part = index["part"].to_numpy()
        self.frame_start = index["frame_start"].to_numpy()
        self.num_frames = index["num_frames"].to_numpy()
        self.sizes_N2 = np.stack([index["height"].to_numpy(), index["width"].to_numpy()], axis=1)
        self.sample_ids = index["sample_id"].combine_chunks()
        self.part_sizes = np.bincount(self.part, minlength=frames.manifest.num_parts).astype(np.int64)
        self.part_first = np.cumsum(self.part_sizes) - self.part_sizes
        self._read_ahead = ReadAhead()

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        """What a clip is read from."""
        return (self.frames,)

    @abstractmethod
    def view(self, epoch: int, position: int) -> View:
        """Return the view of all frames of the clip."""

    @abstractmethod
    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        """Return what the clip's tokens are, or are made from. Its frames are the pool's at `pool_T`."""

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

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack samples; `hidden` int64 (M,) are the positions to predict (`hidden_positions`), found on the CPU."""
        batch = collate(samples)
        return batch | {"hidden": hidden_positions(batch["mask"], self.clip_frames, self.hidden_multiple)}

    def sample_id(self, position: int) -> str:
        return self.sample_ids[position].as_py()

    def _sample(self, epoch: int, position: int) -> dict[str, Any]:
        rng = self._rng(epoch, position)
        start, count = self._range(position, rng)
        view = self.view(epoch, position)
        jpegs = self.frames.read_jpegs(int(self.part[position]), int(self.frame_start[position]) + start, count)
        clip_THWC = np.empty((self.clip_frames, view.crop_px, view.crop_px, 3), np.uint8)
        height, width = self.sizes_N2[position].tolist()
        for i, jpeg in enumerate(jpegs):  # one frame at a time, which stays in the cache
            clip_THWC[i::count] = apply_view(decode_jpeg(jpeg, (height, width)), view)
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
        """Draw which frames of the pool the clip takes: the first one, and how many."""
        pool = int(self.num_frames[position])
        return int(rng.integers(max(pool - self.clip_frames, 0) + 1)), min(self.clip_frames, pool)

    def place(self, epoch: int, position: int) -> tuple[int, int, int, View]:
        """Return where a sample's pixels come from: the part, the pool's first frame, how many, and the view."""
        start, count = self._range(position, self._rng(epoch, position))
        return int(self.part[position]), start, count, self.view(epoch, position)

    def expect(self, order: StreamOrder, step: int) -> None:
        """Have the parts that `step` and the steps after it read copied here, where they are not read in place."""
        distant = [store for store in self.stores if isinstance(store.path, ObjectPath)]
        if distant:
            places = [store.place(part) for part in order.parts_ahead(step) for store in distant]
            self._read_ahead.want([place for place in places if isinstance(place, Entry)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read_ahead": ReadAhead()}


class TokenDataset(ClipDataset):
    """Clips of a token set under its stored views, which follow (seed, part, epoch), with `tokens` int64 (T, h, w)."""

    def __init__(
        self,
        tokens: TokenSet,
        *,
        name: str,
        seed: int,
        clip_frames: int,
        tubelet: int,
        mask: MaskConfig,
        cached_parts: int,
        hidden_multiple: int = 1,
    ) -> None:
        super().__init__(
            tokens.frames,
            name=name,
            seed=seed,
            clip_frames=clip_frames,
            tubelet=tubelet,
            mask=mask,
            hidden_multiple=hidden_multiple,
        )
        self.tokens = TokenSet(tokens.path)  # a copy that stays small when it is pickled
        self.path = tokens.path
        self.grid = tokens.manifest.tokenizer.grid
        columns = (tokens.frames.index[name].to_numpy() for name in ("num_frames", "height", "width"))
        self.sizes_N3 = np.stack(list(columns), axis=1).astype(np.int32)
        self.cached_parts = cached_parts
        self._views: OrderedDict[tuple[int, int], PartView] = OrderedDict()

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        return (self.frames, self.tokens)

    def view(self, epoch: int, position: int) -> View:
        part, row = self._row(position)
        return self._part_view(part, epoch).views[row]

    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        part, row = self._row(position)
        tokens_THW = self._part_view(part, epoch).tokens[row][pool_T]
        return {"tokens": torch.from_numpy(tokens_THW.astype(np.int64))}

    def _row(self, position: int) -> tuple[int, int]:
        part = int(self.part[position])
        return part, int(position - self.part_first[part])

    def _part_view(self, part: int, epoch: int) -> PartView:
        """Return the row group of the epoch's view, from the few that were read last."""
        view = view_of_epoch(self.tokens.manifest.views.num_views, part, epoch, *self.key)
        cached = self._views.pop((part, view), None)
        self._views[part, view] = cached or self._read_view(part, view)
        if len(self._views) > self.cached_parts:
            self._views.popitem(last=False)
        return self._views[part, view]

    def _read_view(self, part: int, view: int) -> PartView:
        """Read a row group; raise BadRow where it does not fit the part's frames."""
        stored, first = self.tokens.read_view(part, view), int(self.part_first[part])
        rows = slice(first, first + int(self.part_sizes[part]))
        crop_px, ids = self.tokens.manifest.views.crop_px, self.sample_ids[rows].to_pylist()
        check_rows(stored, self.tokens.path_of(part), view, crop_px, ids, self.sizes_N3[rows].tolist())
        return stored

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_views": OrderedDict()}


def draw_mask(
    config: MaskConfig, rng: np.random.Generator, grid_THW: tuple[int, int, int], frames_THWC: np.ndarray
) -> np.ndarray:
    """Draw the mask of one sample: bool (T, H, W), True = hidden = predicted. Motion is looked for in `frames_THWC`."""
    T, H, W = grid_THW
    num_masked = int(config.ratio * H * W)
    if isinstance(config, BlockMask):
        return blockwise(rng, (H, W), num_masked, config.min_block)[None].repeat(T, axis=0)
    options = {"min_block": config.min_block, "length_range": config.length_share} if config.kind == "tube" else {}
    return MASKERS[config.kind](rng, grid_THW, num_masked, frames_THWC=frames_THWC, **options)


class Samples(Protocol):
    """Samples by (epoch, position in the order), each with its `sample_id`. Picklable, for the loader's workers.

    A dataset with a method `collate` makes its own batches of them.
    """

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]: ...


class StreamBatches(Dataset):
    """By step: the micro-batches of this rank's share of the global batch of every stream. The loop's BatchSource."""

    def __init__(
        self,
        streams: Mapping[str, tuple[Samples, StreamOrder]],
        *,
        rank: int,
        world_size: int,
        num_workers: int,
        pin_memory: bool,
        micro_batches: int = 1,
    ) -> None:
        self.streams = dict(streams)
        self.rank, self.world_size = rank, world_size
        self.num_workers, self.pin_memory, self.micro_batches = num_workers, pin_memory, micro_batches

    def __getitem__(self, step: int) -> list[Batch]:
        """Return the collated samples of every stream, by micro-batch."""
        micros: list[Batch] = [{} for _ in range(self.micro_batches)]
        for name, (dataset, order) in self.streams.items():
            epoch, positions = order.batch(step)
            if isinstance(dataset, ClipDataset):
                dataset.expect(order, step)
            mine = rank_slice(positions, self.rank, self.world_size)
            into_batch = getattr(dataset, "collate", collate)
            for micro, share in zip(micros, split(mine, self.micro_batches), strict=True):
                micro[name] = into_batch([dataset[epoch, int(position)] for position in share])
        return micros

    def batches(self, first: int, stop: int) -> Iterable[list[Batch]]:
        return make_loader(self, first, stop, num_workers=self.num_workers, pin_memory=self.pin_memory)

    def samples_in(self, batch: Batch) -> list[str]:
        return [sample_id for stream in batch.values() for sample_id in stream["sample_id"]]


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack the tensors of the samples; everything else becomes a list."""
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {key: torch.stack(c) if isinstance(c[0], Tensor) else c for key, c in columns.items()}


def normalise(clip_BTHWC: Tensor) -> Tensor:
    """uint8 frames -> float32 (B, C, T, H, W) with ImageNet's mean and deviation: the stem's input."""
    mean, std = imagenet_statistics(clip_BTHWC.device)
    return ((clip_BTHWC.float() - mean) / std).permute(0, 4, 1, 2, 3)


@shape_constant
def imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each colour (3,), copied to a device once."""
    return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
