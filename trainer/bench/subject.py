"""What `bevt tune` measures of a recipe of any stage: its model on random batches, and its loader.

The speed of a step does not depend on the values of pixels and tokens, so its batches are random. Samples are loaded
only from the recipe's own data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bevt_core.console.inert import one_line
from bevt_core.known_sets import KNOWN_SETS
from bevt_core.masking import draw_mask
from bevt_core.rng import rng_for
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import as_path
from bevt_core.tokenizers.base import Tokenizer
from schemas.models import MaskConfig
from schemas.recipes import FinetuneRecipe, OnlineTokens, PretrainRecipe, StreamConfig
from trainer.bench.step import pinned, random_stream_batch
from trainer.clips.sources import ClipSource
from trainer.data.batches import Samples
from trainer.data.clip_dataset import MORE_TOKENS
from trainer.data.online import OnlineSource
from trainer.data.order import StreamOrder
from trainer.engine.optim import LrShare
from trainer.engine.task import Batch, Task
from trainer.finetune.model import build_from_recipe, lr_share
from trainer.finetune.plan import Videos, finetune_workload
from trainer.finetune.task import TERM, ClassifyTask, TrainingClips
from trainer.pretrain.plan import pretrain_workload
from trainer.pretrain.stage import hidden_multiple_of, task_of, workload_of
from trainer.pretrain.streams import online_tokenizer, open_sources, open_streams
from trainer.setup.models import (
    build_model,
    checkpoint_activations,
    checkpoint_encoder,
    halvings,
    tokens_per_side,
    tubelet_of,
)
from trainer.setup.plan import Workload
from trainer.setup.session import averaged

TOKENS_PER_SIDE = 14  # of random batches without a data set, as of the published tokenizers
CLASSES = 100  # of random batches without a data set, for layouts of unknown size
MASKS_DRAWN = 16  # different masks in a random batch

MakeTask = Callable[[bool], Task]  # whether activations are checkpointed -> the task, with a new model
MakeBatch = Callable[[Mapping[str, int]], Batch]  # number of samples by stream -> a random micro-batch


@dataclass(frozen=True)
class Subject:
    """A recipe, ready to be measured on one device."""

    workload: Workload[Any]
    samples: Mapping[str, Samples] | None  # by stream; None: the recipe's data does not exist here
    data: str  # where the samples are, or which data is missing
    task: MakeTask
    batch: MakeBatch
    lr_share: LrShare = lambda name: 1.0


def missing_data(recipe: PretrainRecipe | FinetuneRecipe) -> str | None:
    """Return the first of the recipe's data sets that does not exist on this machine, or None."""
    named = [recipe.root] if isinstance(recipe, FinetuneRecipe) else [data_of(each) for each in recipe.streams.values()]
    storages = [(place, storage_of(as_path(place))) for place in named]
    return next((place for place, storage in storages if not storage.is_remote and not storage.exists()), None)


def data_of(stream: StreamConfig) -> str:
    """Return the token set of a stream, or the frame store of one without stored tokens."""
    return stream.tokens.frames if isinstance(stream.tokens, OnlineTokens) else stream.tokens


def stored_subject(recipe: PretrainRecipe, device: torch.device) -> Subject:
    """Return the subject of a pretraining recipe on its data. Raises UserError for data that do not fit the recipe."""
    sources = open_sources(recipe, device)
    streams = open_streams(recipe, sources, hidden_multiple_of(recipe.loop, device))
    crop_px = {name: source.crop_px for name, source in sources.items()}
    tokenizers = {name: source.tokenizer for name, source in sources.items() if isinstance(source, OnlineSource)}
    samples = {name: dataset for name, (dataset, _) in streams.items()}
    data = ", ".join(data_of(stream) for stream in recipe.streams.values())
    workload = workload_of(recipe, sources, streams)
    return Subject(workload, samples, one_line(data), *_pretraining(recipe, crop_px, tokenizers, device))


def made_subject(recipe: PretrainRecipe, missing: str, device: torch.device) -> Subject:
    """Return the subject of a pretraining recipe without its data, of which `missing` is a part."""
    orders: dict[str, StreamOrder] = {}
    crop_px: dict[str, int] = {}
    tokenizers: dict[str, Tokenizer] = {}
    for name, stream in recipe.streams.items():
        orders[name] = made_order(stream.global_batch, f"streams.{name}.global_batch")
        crop_px[name] = int(TOKENS_PER_SIDE * recipe.model.encoder.patch[1] * 2 ** halvings(recipe.model.encoder))
        if isinstance(stream.tokens, OnlineTokens):
            crop_px[name] = stream.tokens.views.crop_px
            tokenizers[name] = online_tokenizer(stream.tokens, device)
    workload = pretrain_workload(recipe, orders, crop_px)
    return Subject(workload, None, one_line(missing), *_pretraining(recipe, crop_px, tokenizers, device))


def _pretraining(
    recipe: PretrainRecipe, crop_px: Mapping[str, int], tokenizers: Mapping[str, Tokenizer], device: torch.device
) -> tuple[MakeTask, MakeBatch]:
    def task(checkpointed: bool) -> Task:
        with device:
            model = build_model(recipe.model, tuple(recipe.streams))
        if checkpointed:
            checkpoint_activations(model)
        return task_of(recipe, averaged(model, recipe.ema_decay)[0], tokenizers)

    def batch(counts: Mapping[str, int]) -> Batch:
        made: Batch = {}
        for name, stream in recipe.streams.items():
            rows, columns = map(int, tokens_per_side(recipe.model.encoder, crop_px[name]))
            grid_THW = (stream.clip_frames // tubelet_of(name, recipe.model), rows, columns)
            drawn = masks(stream.mask, grid_THW)
            mask_BTHW = drawn[torch.arange(counts[name]) % len(drawn)]
            sizes = {"tokens": recipe.model.vocab_size}
            sizes |= {MORE_TOKENS + target: recipe.model.more_heads[target] for target in stream.more_targets}
            made[name] = random_stream_batch(
                mask_BTHW, stream.clip_frames, crop_px[name], sizes, tokenizers.get(name), device
            )
        return made

    return task, batch


def finetune_subject(recipe: FinetuneRecipe, train: ClipSource | None, device: torch.device) -> Subject:
    """Return the subject of a fine-tuning recipe; `train` is None if the recipe's data does not exist here."""
    known = KNOWN_SETS.get(recipe.dataset)
    if train is None:
        videos = Videos(recipe.global_batch, 0, CLASSES if known is None else known.classes)
    else:
        videos = Videos(len(train.items), 0, len(train.classes))
    size_px, frames = recipe.augment.crop_px, recipe.sampling.frames

    def task(checkpointed: bool) -> Task:
        with device:
            model = build_from_recipe(recipe, videos.classes)
        if checkpointed:
            checkpoint_encoder(model.encoder)
        trained = averaged(model, recipe.ema_decay)[0]
        return ClassifyTask(trained, videos.classes, recipe.label_smoothing, recipe.mix, recipe.loop.seed)

    def batch(counts: Mapping[str, int]) -> Batch:
        number = counts[TERM]
        made = {
            "clip": torch.randint(256, (number, frames, size_px, size_px, 3), dtype=torch.uint8),
            "label": torch.randint(videos.classes, (number,)),
            "sample_id": [""] * number,
            "error": [None] * number,
        }
        return {TERM: pinned(made, device)}

    samples = None if train is None else {TERM: TrainingClips(train, recipe)}
    where = recipe.root if train is None else train.path
    return Subject(finetune_workload(recipe, videos), samples, one_line(where), task, batch, lr_share(recipe))


def made_order(global_batch: int, key: str) -> StreamOrder:
    """Return an order of exactly one global batch, for the plan of a recipe without data."""
    return StreamOrder(np.array([global_batch]), global_batch, 1, (0, key), key)


def masks(config: MaskConfig, grid_THW: tuple[int, int, int]) -> torch.Tensor:
    """Return MASKS_DRAWN masks of the recipe's kind: bool (B, T, H, W)."""
    still_THWC = np.zeros((*grid_THW, 3), np.uint8)
    drawn = [draw_mask(config, rng_for("tune", number), grid_THW, still_THWC) for number in range(MASKS_DRAWN)]
    return torch.from_numpy(np.stack(drawn))
