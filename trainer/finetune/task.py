"""Classification of clips: the loss of a batch, and the augmented clips for training."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.console.terminal import warn
from bevt_core.media.errors import MediaError
from bevt_core.models.stems import normalise
from bevt_core.rng import rng_for
from schemas.recipes import FinetuneRecipe, MixConfig
from trainer.clips.augmentation.crops import augment_clip
from trainer.clips.augmentation.mixing import draw_mix, mix_pairs
from trainer.clips.sampling import SAMPLERS
from trainer.clips.sources import ClipSource, interval_of
from trainer.engine.task import Batch, Term

TERM = "class"  # name of the loss term and of the only stream
UNREADABLE = -1  # label of a clip that could not be read: it is ignored


class ClassifyTask:
    """Cross-entropy of the clips' classes, optionally with Mixup and CutMix, which depend on (seed, step)."""

    def __init__(
        self, model: nn.Module, num_classes: int, label_smoothing: float, mix: MixConfig | None, seed: int
    ) -> None:
        self.model, self.num_classes, self.label_smoothing = model, num_classes, label_smoothing
        self.mix, self.seed = mix, seed
        self.unreadable: dict[str, str] = {}  # clip -> error, of the clips that this rank could not read
        self.num_read = 0  # clips that this rank could read

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of readable clips; warn once of each unreadable clip."""
        clips = batch[TERM]
        for name, error in zip(clips["sample_id"], clips["error"], strict=True):
            if error is not None and name not in self.unreadable:
                self.unreadable[name] = error
                warn(f"{name} left out of training: {error}")
        readable = int((clips["label"] != UNREADABLE).sum())
        self.num_read += readable
        return {TERM: readable}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        """Return the loss and top-1. A mixed clip is correct if its own class is predicted, however small its share."""
        clip_BCTHW, label_B = normalise(batch[TERM]["clip"]), batch[TERM]["label"]
        readable_B = label_B != UNREADABLE
        target_BV = F.one_hot(label_B.clamp(min=0), self.num_classes) * readable_B[:, None].float()
        if self.mix is not None:
            height, width = clip_BCTHW.shape[-2:]
            drawn = draw_mix(self.mix, height, width, rng_for("mix", self.seed, step))
            clip_BCTHW, target_BV = mix_pairs(clip_BCTHW, target_BV, drawn)
        logits_BV: Tensor = model(clip_BCTHW).float()
        loss_B = F.cross_entropy(logits_BV, target_BV, label_smoothing=self.label_smoothing, reduction="none")
        loss_sum = torch.where(readable_B, loss_B, 0.0).sum()
        return {TERM: Term(loss_sum, sums={"top1": (logits_BV.argmax(dim=1) == label_B).sum()})}


class TrainingClips:
    """Augmented clips by (epoch, position). Random choices depend only on (seed, epoch, video)."""

    def __init__(self, source: ClipSource, recipe: FinetuneRecipe) -> None:
        self.source, self.recipe = source, recipe
        self.interval = interval_of(source, recipe.sampling)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        """Return `clip` uint8 (T, H, W, C), `label`, `sample_id`, and `error` for a video that cannot be read."""
        epoch, position = at
        item, sampling, augment = self.source.items[position], self.recipe.sampling, self.recipe.augment
        rng = rng_for("finetune", self.recipe.loop.seed, epoch, item.source)
        choose = SAMPLERS[sampling.kind].train
        label, error = item.label, None
        try:
            frames_THWC = self.source.read(position, lambda n: choose(n, sampling.frames, self.interval, rng))
            clip_THWC = augment_clip(torch.from_numpy(np.stack(frames_THWC)), augment, rng)
        except MediaError as media_error:
            label, error = UNREADABLE, str(media_error)
            clip_THWC = torch.zeros(sampling.frames, augment.crop_px, augment.crop_px, 3, dtype=torch.uint8)
        return {"clip": clip_THWC, "label": torch.tensor(label), "sample_id": item.source, "error": error}
