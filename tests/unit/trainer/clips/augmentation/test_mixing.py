"""Mixup and CutMix: timm's numbers, the same in every frame, and the same for any division of the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data import mixup as timm_mixup
from torch import nn

from bevt_core.models.stems import normalise
from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.recipes import MixConfig
from trainer.clips.augmentation.crops import Box
from trainer.clips.augmentation.mixing import Mix, check_pairs, draw_mix, mix_pairs
from trainer.finetune.task import UNREADABLE, ClassifyTask

BOTH = MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0, share=0.9)


class NumpyOf:
    """The part of `np` that timm uses, with our generator."""

    sqrt, clip = staticmethod(np.sqrt), staticmethod(np.clip)

    def __init__(self, rng: np.random.Generator) -> None:
        self.random = self
        self.rand, self.beta = rng.random, rng.beta
        self.randint = lambda low, high, size: rng.integers(low, high, size)


@pytest.mark.parametrize(
    "config", [BOTH, MixConfig(mixup_alpha=0.8, cutmix_alpha=0), MixConfig(mixup_alpha=0, cutmix_alpha=1)]
)
def test_a_pair_is_mixed_as_timm_mixes_it(config: MixConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for seed in range(20):
        clip = torch.from_numpy(rng_for("clip", seed).normal(size=(2, 3, 4, 20, 26))).float()
        label = torch.tensor([1, 2])
        monkeypatch.setattr(timm_mixup, "np", NumpyOf(rng_for("draw", seed)))
        mixer = Mixup(config.mixup_alpha, config.cutmix_alpha, prob=config.share, label_smoothing=0.1, num_classes=5)
        wanted, wanted_target = mixer(clip.flatten(1, 2).clone(), label)
        drawn = draw_mix(config, 20, 26, rng_for("draw", seed))
        mixed, target = mix_pairs(clip, F.one_hot(label, 5).float(), drawn)
        torch.testing.assert_close(mixed.flatten(1, 2), wanted)
        torch.testing.assert_close(target * 0.9 + 0.1 / 5, wanted_target)
        seen.add((drawn.own_share == 1.0, drawn.box is None))
    assert len(seen) == (3 if config is BOTH else 1)


def test_every_frame_gets_the_same_box() -> None:
    clip = torch.stack([torch.zeros(3, 4, 8, 8), torch.ones(3, 4, 8, 8)])
    mixed, _ = mix_pairs(clip, torch.eye(2), Mix(0.75, Box(2, 3, 4, 4)))
    assert mixed[0].sum() == 3 * 4 * 16 and (mixed[0] == mixed[0, :1, :1]).all() and mixed[0, 0, 0, 2, 3] == 1


def test_a_clip_without_a_class_leaves_its_partner_alone() -> None:
    clip, target = torch.randn(4, 3, 2, 8, 8), torch.eye(4)
    target[1] = 0
    mixed, mixed_target = mix_pairs(clip, target, Mix(0.6, None))
    assert torch.equal(mixed[:2], clip[:2]) and torch.equal(mixed_target[:2], target[:2])
    torch.testing.assert_close(mixed_target[2], torch.tensor([0, 0, 0.6, 0.4]))


class MeanColour(nn.Module):
    def forward(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        return clip_BCTHW.mean(dim=(2, 3, 4))


def batch_of(labels: list[int]) -> dict:
    clips = torch.from_numpy(rng_for("batch").integers(0, 256, (len(labels), 2, 8, 8, 3), dtype=np.uint8))
    return {"class": {"clip": clips, "label": torch.tensor(labels)}}


def test_the_loss_without_mixing_is_that_of_the_labels() -> None:
    batch = batch_of([0, UNREADABLE, 2, 1])
    task = ClassifyTask(MeanColour(), 3, label_smoothing=0.1, mix=None, seed=0)
    term = task.losses(task.model, batch, 0)["class"]
    logits, label = task.model(normalise(batch["class"]["clip"])), batch["class"]["label"]
    wanted = F.cross_entropy(logits, label, ignore_index=UNREADABLE, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(term.loss_sum, wanted)


def test_micro_batches_and_steps() -> None:
    batch = batch_of([0, 1, 2, 0])
    task = ClassifyTask(MeanColour(), 3, label_smoothing=0.1, mix=BOTH, seed=0)
    halves = [{"class": {key: value[at] for key, value in batch["class"].items()}} for at in (slice(2), slice(2, 4))]
    whole, other = (float(task.losses(task.model, batch, step)["class"].loss_sum) for step in (1, 2))
    assert sum(float(task.losses(task.model, half, 1)["class"].loss_sum) for half in halves) == pytest.approx(whole)
    assert whole != other


def test_pairs_that_would_be_split_are_refused() -> None:
    check_pairs(64, 4, 8)
    with pytest.raises(UserError, match="multiple of 24"):
        check_pairs(64, 4, 3)
