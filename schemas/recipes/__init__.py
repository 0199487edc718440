"""Recipes: every setting that determines the numbers of a job or run, in one YAML file."""

from schemas.recipes.finetune import (
    DECODE_TIMEOUT_S,
    Aspect,
    AugmentConfig,
    ClipSampling,
    EvalViews,
    FinetuneRecipe,
    MixConfig,
    RandAugmentConfig,
)
from schemas.recipes.pretrain import OnlineTokens, PretrainRecipe, ProbeConfig, Stream, StreamConfig
from schemas.recipes.tokenization import TokenizerDtype, TokenizeRecipe
from schemas.recipes.tokenizer import (
    DvaeTraining,
    Layer,
    PecoTraining,
    PerceptualConfig,
    Temperature,
    TokenizerRecipe,
)
from schemas.recipes.training import Decay, Execution, LoopConfig, OptimConfig, Precision

__all__ = [
    "DECODE_TIMEOUT_S",
    "Aspect",
    "AugmentConfig",
    "ClipSampling",
    "Decay",
    "DvaeTraining",
    "EvalViews",
    "Execution",
    "FinetuneRecipe",
    "Layer",
    "LoopConfig",
    "MixConfig",
    "OnlineTokens",
    "OptimConfig",
    "PecoTraining",
    "PerceptualConfig",
    "Precision",
    "PretrainRecipe",
    "ProbeConfig",
    "RandAugmentConfig",
    "Stream",
    "StreamConfig",
    "Temperature",
    "TokenizeRecipe",
    "TokenizerDtype",
    "TokenizerRecipe",
]
