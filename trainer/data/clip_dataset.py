"""Clips of a frame store, determined by (seed, epoch, sample): pixels under a view, a mask, and the view's tokens.

Legend: T frames of a clip, H W pixels or token grid, h w token grid, C channels, N samples. Masks are at tubelet
resolution in time.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_rows import BadRow
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import PartView, TokenSet
from bevt_core.masking import draw_mask, reads_pixels
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
from trainer.data.order import StreamOrder, view_of_epoch

MORE_TOKENS = "tokens/"  # followed by a further target's name: the key of its tokens in samples and batches

# A sample that is read several times in an epoch (StreamOrder.weights) has the clip, view and mask of an epoch that no
# run reaches. The number is prime, so that the views differ.
REPETITION_EPOCHS = 1_000_003

StoredView = tuple[PartView, dict[str, list[np.ndarray]]]  # one view of a part; the further targets' tokens by name


class ClipDataset(Dataset[dict[str, Any]], ABC):
    """Clips of a frame store by (epoch, position): the pixels of a view, a new mask, and the `targets`.

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
        samples = frames.samples
        self.part = samples["part"].to_numpy()
        self.frame_start = samples["frame_start"].to_numpy()
        self.num_frames = samples["num_frames"].to_numpy()
        self.sizes_N2 = np.stack([samples["height"].to_numpy(), samples["width"].to_numpy()], axis=1)
        self.sample_ids = samples["sample_id"]
        self.part_sizes = np.bincount(self.part, minlength=frames.manifest.num_parts).astype(np.int64)
        self.part_weights = part_weights(frames)  # None: all parts have weight 1
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
        repetition, position = divmod(position, len(self))
        epoch += repetition * REPETITION_EPOCHS
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
        mask_THW = draw_mask(self.mask, rng, grid_THW, clip_THWC if reads_pixels(self.mask) else None)
        return {
            "clip": torch.from_numpy(clip_THWC),
            "mask": torch.from_numpy(mask_THW),
            "sample_id": self.sample_id(position),
            **self.targets(epoch, position, start + np.arange(self.clip_frames) % count, clip_THWC),
        }

    def _rng(self, epoch: int, position: int) -> np.random.Generator:
        return rng_for("clip", *self.key, epoch, self.sample_id(position))

    def _range(self, position: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the clip's frames from the pool; return the first one and their number."""
        pool = int(self.num_frames[position])
        return int(rng.integers(max(pool - self.clip_frames, 0) + 1)), min(self.clip_frames, pool)

    def locate(self, epoch: int, position: int) -> tuple[int, int, int, View]:
        """Return where a clip's pixels are: part, first frame in the sample's pool, number of frames, and view."""
        start, count = self._range(position, self._rng(epoch, position))
        return int(self.part[position]), start, count, self.view(epoch, position)

    def read_ahead(self, order: StreamOrder, step: int) -> None:
        """Start copying the parts that `step` and the next steps read to the local cache, if they are remote."""
        remote = [store for store in self.stores if storage_of(store.path).is_remote]
        if remote:
            entries = [store.location(part) for part in order.parts_ahead(step) for store in remote]
            self._read_ahead.want([entry for entry in entries if isinstance(entry, Entry)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read_ahead": ReadAhead()}


def part_weights(frames: FrameStore) -> np.ndarray | None:
    """The weight of each part, float64 (parts,), in a store that mixes data sets with weights."""
    weights = np.ones(frames.manifest.num_parts)
    for mixed in frames.manifest.mix:
        weights[mixed.first_part : mixed.first_part + mixed.num_parts] = mixed.weight
    return None if (weights == 1).all() else weights


class TokenDataset(ClipDataset):
    """Clips of a token set with `tokens` int64 (T, h, w). The stored view is a function of (seed, part, epoch).

    `more` are token sets of the same frames with the same views and grid, by name; their tokens are `tokens/NAME`.
    """

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
        more: Mapping[str, TokenSet] | None = None,
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
        self.tokens = TokenSet(tokens.path)  # a fresh instance, small when it is pickled
        self.more = {name: TokenSet(further.path) for name, further in sorted((more or {}).items())}
        self.path = tokens.path
        self.grid = tokens.manifest.tokenizer.grid
        columns = (tokens.frames.samples[name].to_numpy() for name in ("num_frames", "height", "width"))
        self.sizes_N3 = np.stack(list(columns), axis=1).astype(np.int32)
        self.cached_parts = cached_parts
        self._views: OrderedDict[tuple[int, int], StoredView] = OrderedDict()

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        return (self.frames, self.tokens, *self.more.values())

    def view(self, epoch: int, position: int) -> View:
        part, row = self._row(position)
        return self._part_view(part, epoch)[0].views[row]

    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        part, row = self._row(position)
        first, more = self._part_view(part, epoch)
        tokens = {"tokens": first.tokens, **{MORE_TOKENS + name: further for name, further in more.items()}}
        return {key: torch.from_numpy(rows[row][pool_T].astype(np.int64)) for key, rows in tokens.items()}

    def _row(self, position: int) -> tuple[int, int]:
        part = int(self.part[position])
        return part, int(position - self.part_first[part])

    def _part_view(self, part: int, epoch: int) -> StoredView:
        """Return the row groups of the epoch's view; those of the last `cached_parts` are cached."""
        view = view_of_epoch(self.tokens.manifest.views.num_views, part, epoch, *self.key)
        cached = self._views.pop((part, view), None)
        self._views[part, view] = cached or self._read_view(part, view)
        if len(self._views) > self.cached_parts:
            self._views.popitem(last=False)
        return self._views[part, view]

    def _read_view(self, part: int, view: int) -> StoredView:
        """Read the row groups of a view. Raises BadRow if they do not fit the part's frames, or each other."""
        start = int(self.part_first[part])
        rows = slice(start, start + int(self.part_sizes[part]))
        samples = self.sample_ids[rows].to_pylist(), self.sizes_N3[rows].tolist()
        first = self.tokens.read_checked_view(part, view, *samples)
        more: dict[str, list[np.ndarray]] = {}
        for name, tokens in self.more.items():
            further = tokens.read_checked_view(part, view, *samples)
            if further.views != first.views:
                raise BadRow(
                    f"{tokens.path_of(part)}: view {view} differs from that in {self.tokens.path_of(part)}, but tokens "
                    "of several targets must have the same views; run `bevt verify` on this dataset"
                )
            more[name] = further.tokens
        return first, more

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_views": OrderedDict()}
