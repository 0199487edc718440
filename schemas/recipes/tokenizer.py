"""Recipes of `bevt tokenizer train`. Comments name the origin of the numbers."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record
from schemas.ranges import Batch, CropPixels, Steps, Strength, Vocabulary
from schemas.recipes.identity import Free
from schemas.recipes.training import LoopConfig, OptimConfig

Temperature = Annotated[float, Field(gt=0.0, le=1e3)]

Layer = Annotated[int, Field(ge=0, le=1000)]


class DvaeTraining(Record):
    """A discrete VAE (Ramesh et al. 2021)."""

    kind: Literal["dvae"]
    preset: str  # a key of bevt_core.tokenizers.dvae.training.DVAE_PRESETS
    vocab_size: Vocabulary | None = None  # null: the preset's
    temperature: tuple[Temperature, Temperature]  # Gumbel-softmax, first -> last (Ramesh et al. 2021: 1 -> 1/16)
    kl_weight: tuple[Strength, Strength]  # first -> last
    guide_weight: Strength  # initial weight of the pull towards the initial k-means codes; it fades out
    recon: Literal["mse", "logit-laplace"]  # loss of the reconstruction


class PerceptualConfig(Record):
    """A frozen network; the loss compares its features of a frame and of the reconstruction."""

    name: str  # model name in timm
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=64)  # indices of its blocks or stages, from 0
    weight: float = Field(gt=0.0, le=1e6)  # lambda of the perceptual loss
    weights: Free[str | None]  # a file; null: from timm's hub


class PecoTraining(Record):
    """A VQ-VAE with a perceptual loss (Dong et al. 2021, PeCo)."""

    kind: Literal["peco"]
    preset: str  # a key of bevt_core.tokenizers.peco.tokenizer.PECO_PRESETS
    vocab_size: Vocabulary | None = None  # null: the preset's
    pixel: Literal["l1", "mse"]  # loss of the reconstruction's pixels
    commitment_weight: Strength  # beta of the VQ-VAE
    ema_decay: float = Field(gt=0.0, lt=1.0)  # of the codebook, per step
    dead_share: float = Field(ge=0.0, lt=1.0)  # a code used less than this share of the average is reinitialized
    perceptual: PerceptualConfig | None


class TokenizerRecipe(Record):
    """Training of a tokenizer on the frames of one or more frame stores."""

    kind: Literal["tokenizer"]
    title: Free[str]  # a description
    architecture: Annotated[DvaeTraining | PecoTraining, Field(discriminator="kind")]
    frames: Free[tuple[str, ...]] = Field(min_length=1)  # frame stores
    input_px: CropPixels = Field(multiple_of=8)  # side of the tokenizer's input and of the training crops
    global_batch: Batch  # crops per optimizer step, over all ranks
    samples_per_epoch: Steps  # random crops per epoch
    optim: OptimConfig
    loop: LoopConfig
