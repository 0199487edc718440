"""The training tasks of the dVAE and PeCo tokenizers: their losses, hooks, and the table of architectures.

Legend: N frames, H W pixels, C channels, V codes, D values of a code, M tokens of one process in a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.rng import rng_for
from bevt_core.tokenizers.codes import count_and_sum
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.losses import guide_weight_at, kl_weight_at, temperature_at
from bevt_core.tokenizers.dvae.training import DVAE_PRESETS, DvaeTrainingModule, dvae_lr_share
from bevt_core.tokenizers.peco.perceptual import Perceptual
from bevt_core.tokenizers.peco.tokenizer import PECO_PRESETS, PecoOutput, PecoTrainingModule
from schemas.recipes import DvaeTraining, PecoTraining
from trainer.distributed.world import World
from trainer.engine.loop import Hook
from trainer.engine.optim import LrShare
from trainer.engine.task import Batch, Task, Term

FRAMES = "frames"  # the stream's name in a batch
RESTARTS = 256  # dead codes to restart in one step, at most

PIXEL = {"l1": F.l1_loss, "mse": F.mse_loss}


class Sizes(Protocol):
    """The sizes of a tokenizer's networks."""

    @property
    def stride(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def model_copy(self, *, update: Mapping[str, Any]) -> Self: ...


class TokenizerModule(Protocol):
    """A tokenizer's networks in training: what the trainer needs in addition to their loss."""

    @property
    def vectors_per_code(self) -> int:
        """Vectors per code that `warm_start` uses; its frames have that many tokens."""
        ...

    def warm_start(self, frames_NHWC: Tensor, generator: torch.Generator, /) -> None: ...

    def reconstruct(self, frames_NHWC: Tensor) -> Tensor: ...

    def save(self, folder: Path, *, input_px: int, origin: dict[str, str | int | float]) -> StoredTokenizer: ...


class TokenizerTask(Task, Protocol):
    """A task with hooks that every rank calls after each step."""

    @property
    def hooks(self) -> Sequence[Hook]: ...


class DvaeTask:
    """The evidence lower bound of a dVAE; the temperature and the terms' weights depend on the run's progress."""

    hooks: Sequence[Hook] = ()

    def __init__(self, model: DvaeTrainingModule, training: DvaeTraining, total_steps: int) -> None:
        self.model, self.training, self.total_steps = model, training, total_steps

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"dvae": len(batch[FRAMES]["frame"])}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        frames_NHWC = batch[FRAMES]["frame"]
        progress = step / self.total_steps
        kl_weight = kl_weight_at(progress, *self.training.kl_weight)
        guide_weight = guide_weight_at(progress, self.training.guide_weight)
        out = model(frames_NHWC, temperature_at(progress, *self.training.temperature), kl_weight, guide_weight)
        sums = {name: out[name] * len(frames_NHWC) for name in ("recon", "kl", "guide", "perplexity")}
        return {"dvae": Term(out["loss"] * len(frames_NHWC), sums=sums)}


class PecoTask:
    """The pixel, commitment and perceptual losses of PeCo (sections 3.2 and 3.3).

    The perceptual loss compares features of a frozen network. The codebook is not a parameter: after each step it is
    updated from the vectors of the whole global batch, so it does not depend on the number of processes or
    micro-batches.
    """

    def __init__(
        self, model: PecoTrainingModule, training: PecoTraining, total_steps: int, world: World, seed: int
    ) -> None:
        self.model, self.training, self.total_steps, self.world, self.seed = model, training, total_steps, world, seed
        self.hooks: Sequence[Hook] = (self.move_codebook,)
        self._seen: list[tuple[Tensor, Tensor]] = []  # ids and vectors of the step's micro-batches
        self._perceptual: Perceptual | None = None  # outside the model, so it is not checkpointed
        if training.perceptual is not None:
            config = training.perceptual
            self._perceptual = Perceptual(config.name, config.layers, config.weights).to(world.device)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"peco": len(batch[FRAMES]["frame"])}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        out = cast(PecoOutput, model(batch[FRAMES]["frame"]))
        self._seen.append((out.ids_M, out.vectors_MD))
        terms = {"pixel": PIXEL[self.training.pixel](out.decoded_NCHW, out.unit_NCHW), "commitment": out.commitment}
        loss = terms["pixel"] + self.training.commitment_weight * terms["commitment"]
        if self._perceptual is not None and self.training.perceptual is not None:
            terms["perceptual"] = self._perceptual(out.decoded_NCHW, out.unit_NCHW)
            loss = loss + self.training.perceptual.weight * terms["perceptual"]
        count = len(out.unit_NCHW)
        counts_V = torch.bincount(out.ids_M, minlength=self.model.sizes.vocab_size).float()
        sums = {name: value.detach() * count for name, value in terms.items()}
        return {"peco": Term(loss * count, sums=sums, histograms={"token": counts_V})}

    def move_codebook(self, done: int) -> Mapping[str, float]:
        """Update the codebook from the step's vectors and restart dead codes on some of them. A hook of `fit`."""
        ids_M, vectors_MD = (torch.cat(micro_batches) for micro_batches in zip(*self._seen, strict=True))
        self._seen.clear()
        codebook = self.model.codebook
        counts_V, sums_VD = count_and_sum(ids_M, vectors_MD, len(codebook.uses_V))
        totals = self.world.sum(torch.cat([counts_V.unsqueeze(1), sums_VD], dim=1))
        drawn_RD = drawn_vectors(vectors_MD, self.world, RESTARTS, self.seed, done)
        if not torch.isfinite(totals).all():  # the loop skips and reports this step
            return {}
        codebook.follow(totals[:, 0], totals[:, 1:], self.training.ema_decay)
        dead = codebook.dead(self.training.dead_share)
        codebook.restart(dead[:RESTARTS], drawn_RD[: len(dead)])
        return {"peco_dead_codes": float(len(dead))}


def drawn_vectors(vectors_MD: Tensor, world: World, count: int, *key: object) -> Tensor:
    """Draw `count` vectors from those of all ranks, determined by `key` and the same on each rank: (count, D).

    Ranks have consecutive slices of the global batch, so the draw does not depend on the number of ranks.
    """
    sizes = torch.zeros(world.size, device=vectors_MD.device, dtype=torch.int64)
    sizes[world.rank] = len(vectors_MD)
    ends = world.sum(sizes).cumsum(0).tolist()
    first = ends[world.rank] - len(vectors_MD)
    positions = torch.from_numpy(rng_for("restart", *key).integers(ends[-1], size=count)) - first
    mine = ((positions >= 0) & (positions < len(vectors_MD))).nonzero().flatten()
    drawn = vectors_MD.new_zeros(count, vectors_MD.shape[1])
    drawn[mine.to(drawn.device)] = vectors_MD[positions[mine].to(drawn.device)]
    return world.sum(drawn)


# ---- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """The components for training one kind of tokenizer."""

    presets: Mapping[str, Sizes]
    build: Callable[[Any, Any], nn.Module]  # (sizes, the recipe's `architecture`) -> TokenizerModule
    task: Callable[[Any, Any, int, World, int], TokenizerTask]  # (module, `architecture`, total steps, world, seed)
    lr_share: LrShare


ARCHITECTURES = {
    "dvae": Architecture(
        presets=DVAE_PRESETS,
        build=lambda sizes, training: DvaeTrainingModule(sizes, training.recon),
        task=lambda model, training, total_steps, world, seed: DvaeTask(model, training, total_steps),
        lr_share=dvae_lr_share,
    ),
    "peco": Architecture(
        presets=PECO_PRESETS,
        build=lambda sizes, training: PecoTrainingModule(sizes),
        task=PecoTask,
        lr_share=lambda name: 1.0,
    ),
}
