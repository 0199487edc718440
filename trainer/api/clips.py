"""Clips as map-style datasets for any `torch.utils.data.DataLoader`; worker processes open their own files.

These are for other training loops. The trainer's own loader (trainer/data) reads whole parts in the order of a run.
Legend: T frames, H W pixels, h w token grid, C channels (RGB).
"""

from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.dataset.token_set import TokenSet
from schemas.models import MaskConfig
from schemas.recipes import ClipSampling, EvalViews, FinetuneRecipe
from trainer.clips.multi_view import Chunk, ViewChunks, ViewPlan
from trainer.clips.sources import ClipSource, check_labels
from trainer.data.clip_dataset import TokenDataset
from trainer.data.errors import SampleError
from trainer.finetune.task import TrainingClips

CACHED_PARTS = 16  # per process: the tokens of a part of 256 samples, 30 frames and 196 tokens take 3 MB


class LabelledClip(NamedTuple):
    """A clip and its class label."""

    clip: Tensor  # uint8 (T, H, W, C)
    label: int


class TokenClip(NamedTuple):
    """A clip of a token set with its tokens and mask, for masked token prediction."""

    clip: Tensor  # uint8 (T, H, W, C)
    tokens: Tensor  # int64 (T, h, w)
    mask: Tensor  # bool (T / tubelet, h, w), True = hidden


class LabelledClips(Dataset[LabelledClip]):
    """The centre crop of the middle clip of each video, as in validation, with its label."""

    def __init__(
        self, source: ClipSource, sampling: ClipSampling, crop_px: int, short_side_px: int | None = None
    ) -> None:
        """Scale frames to `short_side_px` (default: `crop_px`), then crop; take `sampling` from a recipe or `run.card`.

        Raises UserError for items without a label, and for a sampling interval that a frame store does not support.
        """
        check_labels(source)
        views = EvalViews(clips=1, crops=1, short_side_px=short_side_px or crop_px)
        plan = ViewPlan(sampling, crop_px, views, "normal", seed=0)
        self._chunks = ViewChunks(source, plan, [Chunk(0, at, at + 1) for at in range(len(source.items))])

    def __len__(self) -> int:
        return len(self._chunks.chunks)

    def __getitem__(self, at: int) -> LabelledClip:
        """Return the clip of item `at` of the source. Raises SampleError for a file that cannot be read."""
        found = self._chunks[at]
        (row,) = found["rows"]
        if row["error"] is not None:
            raise SampleError(f"{row['video']}: {row['error']}")
        return LabelledClip(found["views"][0], row["label"])


class AugmentedClips(Dataset[LabelledClip]):
    """A random clip of each video with the recipe's augmentation, as in fine-tuning, with its label.

    Random choices depend only on (recipe.loop.seed, epoch, video): create a new dataset for each epoch.
    """

    def __init__(self, source: ClipSource, recipe: FinetuneRecipe, epoch: int = 0) -> None:
        """Raises UserError as `LabelledClips` does."""
        check_labels(source)
        self._clips, self._epoch, self._len = TrainingClips(source, recipe), epoch, len(source.items)

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, at: int) -> LabelledClip:
        """Return the clip of item `at` of the source. Raises SampleError for a file that cannot be read."""
        found = self._clips[self._epoch, at]
        if found["error"] is not None:
            raise SampleError(f"{found['sample_id']}: {found['error']}")
        return LabelledClip(found["clip"], int(found["label"]))


class TokenClips(Dataset[TokenClip]):
    """A clip of each sample of a token set, in the epoch's stored view, with its tokens and a new mask.

    Clip start and mask depend on (seed, epoch, sample), the view on (seed, epoch, part): create a new dataset for each
    epoch. Each process caches the tokens of CACHED_PARTS parts, so reading a large set in order is much faster than
    shuffling it.
    """

    def __init__(
        self,
        tokens: TokenSet,
        *,
        clip_frames: int,
        mask: MaskConfig,
        tubelet: int = 2,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        """`mask` is a recipe's (`recipe.streams["video"].mask`); its positions cover `tubelet` frames (images: 1)."""
        self._clips = TokenDataset(
            tokens,
            name="clips",
            seed=seed,
            clip_frames=clip_frames,
            tubelet=tubelet,
            mask=mask,
            cached_parts=CACHED_PARTS,
        )
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, at: int) -> TokenClip:
        """Return the clip of sample `at`, a row of `tokens.frames.samples`. Raises SampleError for damaged data."""
        if not 0 <= at < len(self):
            raise IndexError(f"sample {at}, expected 0 to {len(self) - 1}")
        found = self._clips[self._epoch, at]
        return TokenClip(found["clip"], found["tokens"], found["mask"])
