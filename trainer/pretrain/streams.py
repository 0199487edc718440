"""Open the streams of a pretraining recipe: their sources, checked against the recipe, their datasets and orders."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from bevt_core.console.terminal import warn
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.part_cache import cache_bytes
from bevt_core.storage.remote import Entry
from bevt_core.tokenizers import load_tokenizer, resolve_default
from bevt_core.tokenizers.base import Tokenizer
from schemas.errors import UserError
from schemas.models import BevtConfig
from schemas.recipes import OnlineTokens, PretrainRecipe, StreamConfig
from schemas.recipes.loading import streams_in
from schemas.runs import DatasetRef, Growth
from schemas.tokens import TokenizerIdentity
from trainer.clips.sources import thinned
from trainer.data.clip_dataset import ClipDataset, TokenDataset
from trainer.data.online import OnlineSource
from trainer.data.order import StreamOrder
from trainer.pretrain.targets import check_targets, open_more
from trainer.setup.models import tokens_per_side, tubelet_of

MASKS = {"image": ("block",), "video": ("tube", "random_3d", "random_frame", "frame_diff")}  # allowed kinds, by stream

STAGES = {"image": {"image"}, "video": {"video"}, "joint": {"image", "video"}}

Streams = dict[str, tuple[ClipDataset, StreamOrder]]


@dataclass(frozen=True)
class StoredSource:
    """The source of a stream with stored tokens: a token set, and those of further targets by name."""

    tokens: TokenSet
    cached_parts: int
    more: Mapping[str, TokenSet] = field(default_factory=dict)

    @property
    def path(self) -> AnyPath:
        return self.tokens.path

    @property
    def frames(self) -> FrameStore:
        return self.tokens.frames

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        return (self.tokens.frames, self.tokens, *self.more.values())

    @property
    def digest(self) -> str:
        return self.tokens.digest

    @property
    def generations(self) -> dict[str, int]:
        """The number of parts before each extension of the set, by the digest of that time; also for `more`."""
        sets = (self.tokens, *self.more.values())
        found = (generation for tokens in sets for generation in tokens.manifest.generations)
        return {generation.manifest_digest: generation.num_parts for generation in found}

    @property
    def identity(self) -> TokenizerIdentity:
        return self.tokens.manifest.tokenizer

    @property
    def crop_px(self) -> int:
        return self.tokens.manifest.views.crop_px

    def dataset(self, **options: Any) -> TokenDataset:
        return TokenDataset(self.tokens, cached_parts=self.cached_parts, more=self.more, **options)


Source = StoredSource | OnlineSource


def check_stage(stage: str, recipe: str, streams: Sequence[str]) -> None:
    """Raise UserError if `streams`, those of the recipe called `recipe`, belong to another stage."""
    other = next((name for name, its_streams in STAGES.items() if its_streams == set(streams)), None)
    if other is not None and other != stage:
        raise UserError(f"stage {stage}: the recipe {recipe!r} is for stage {other}; use `bevt train {other}`")


def check_token_options(recipe: str, directory: Path, given: Mapping[str, str | None]) -> None:
    """Raise UserError for `video_tokens` or `image_tokens` without such a stream in the recipe.

    A recipe that cannot be read, or is of another kind, is not checked; loading it reports the error.
    """
    try:
        streams = streams_in(recipe, directory)
    except UserError:
        return
    if not streams:
        return
    for name, tokens in given.items():
        if tokens is not None and name not in streams:
            raise UserError(
                f"`{name}_tokens` {tokens}: the recipe {recipe!r} has no {name} stream, only {', '.join(streams)}; "
                f"drop it, or give a `recipe` with {name}s"
            )


def open_sources(recipe: PretrainRecipe, device: torch.device) -> dict[str, Source]:
    """Open every stream's source, tokenizers on `device`. Raises UserError if one does not fit the recipe."""
    sources: dict[str, Source] = {}
    for name, stream in recipe.streams.items():
        with _stream_in_errors(name, stream):
            sources[name] = _open(stream, device)
        check_fit(name, stream, recipe.model, sources[name])
        if isinstance(source := sources[name], StoredSource):
            check_targets(name, source.tokens, source.more, recipe.model)
    check_cache(recipe, sources)
    return sources


@contextmanager
def _stream_in_errors(name: str, stream: StreamConfig) -> Iterator[None]:
    """Name the stream in errors about its source, and what sets the source."""
    fix = f"to read another token set, give `{name}_tokens`"
    if isinstance(stream.tokens, OnlineTokens):
        key = f"streams.{name}.tokens"
        fix = f"to use other frames or another tokenizer, give `{key}.frames=FOLDER` or `{key}.tokenizer=NAME`"
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} stream: {error}; {fix}") from None


def check_cache(recipe: PretrainRecipe, sources: Mapping[str, Source]) -> None:
    """Raise UserError if the cache of remote parts is too small for two windows: the current and the next one."""
    needed = 0
    for name, stream in recipe.streams.items():
        for store in sources[name].stores:
            first_part = store.location(0)
            if isinstance(first_part, Entry):
                parts = min(store.manifest.num_parts, 2 * stream.window_parts)
                needed += parts * sum(digest.num_bytes for digest in first_part.files().values())
    if needed > cache_bytes():
        raise UserError(
            f"BEVT_CACHE_BYTES is {cache_bytes()}, but training from an object store caches two windows of parts on "
            f"the local disk, about {needed} bytes; increase it, or reduce streams.*.window_parts"
        )


def _open(stream: StreamConfig, device: torch.device) -> Source:
    match stream.tokens:
        case OnlineTokens() as tokens:
            return OnlineSource(FrameStore(tokens.frames), online_tokenizer(tokens, device), tokens.views)
        case path:
            return StoredSource(TokenSet(path), 2 * stream.window_parts, open_more(stream))


def online_tokenizer(tokens: OnlineTokens, device: torch.device) -> Tokenizer:
    """Load the tokenizer of a stream without stored tokens."""
    folder = resolve_default(tokens.tokenizer, warn)
    tokenizer = load_tokenizer(folder, device, tokens.tokenizer_dtype, tokens.tokenizer_pass_frames)
    if tokens.tokenizer_compiled:
        tokenizer.compile()
    return tokenizer


def datasets_of(sources: Mapping[str, Source]) -> dict[str, DatasetRef]:
    """Return the data of every stream, by its name, and of its further targets, by `STREAM.TARGET`."""
    datasets = {}
    for name, source in sources.items():
        datasets[name] = DatasetRef(path=str(source.path), digest=source.digest)
        for target, further in (source.more if isinstance(source, StoredSource) else {}).items():
            datasets[f"{name}.{target}"] = DatasetRef(path=str(further.path), digest=further.digest)
    return datasets


def open_streams(
    recipe: PretrainRecipe,
    sources: Mapping[str, Source],
    hidden_multiple: int = 1,
    grown: Mapping[str, Sequence[Growth]] = MappingProxyType({}),
) -> Streams:
    """Return the dataset and the order of every stream; for `hidden_multiple`, see `hidden_positions`.

    `grown` are the extensions that the run went on with, by stream.
    """
    streams: Streams = {}
    for name, stream in recipe.streams.items():
        dataset = sources[name].dataset(
            name=name,
            seed=recipe.loop.seed,
            clip_frames=stream.clip_frames,
            tubelet=tubelet_of(name, recipe.model),
            mask=stream.mask,
            hidden_multiple=hidden_multiple,
        )
        order = StreamOrder(
            dataset.part_sizes,
            stream.global_batch,
            stream.window_parts,
            (recipe.loop.seed, name),
            f"streams.{name}.global_batch",
            tuple((growth.first_epoch, growth.num_parts) for growth in grown.get(name, ())),
            dataset.part_weights,
        )
        streams[name] = (dataset, order)
    return streams


def frames_of(stream: StreamConfig) -> FrameStore:
    """Open the frame store that a stream reads."""
    tokens = stream.tokens
    return FrameStore(tokens.frames) if isinstance(tokens, OnlineTokens) else TokenSet(tokens).frames


def warn_of_unusual_frames(recipe: PretrainRecipe, sources: Mapping[str, Source]) -> None:
    """Warn of streams whose frames are valid for training but probably not intended.

    In an image stream, single frames of videos are used as images, as in the paper's Table 7. Videos with a thinned
    pool yield clips with a longer frame interval; fine-tuning, whose recipe sets the interval, refuses them.
    """
    for name, stream in recipe.streams.items():
        where, store = f"{name} stream, {sources[name].path}", sources[name].frames
        stored, pool = store.manifest, store.manifest.pool
        if name == "image" and stored.num_frames > stored.num_samples:
            warn(
                f"{where}: a set of videos, {stored.num_frames:,} frames of {stored.num_samples:,} samples; each epoch "
                "uses one frame of each sample as an image. To avoid this, give the image stream a set of images"
            )
        if stream.clip_frames > 1 and (found := thinned(store)):
            warn(
                f"{where}: the frames of {len(found)} of {stored.num_samples} samples, e.g. {found[0]}, were thinned "
                f"to pool.max_frames={pool.max_frames}, so frames in their clips are more than "
                f"pool.stride={pool.stride} apart; to cut long videos into several samples instead, use "
                "`bevt tokenize --set pool.long=cut`"
            )


def check_fit(name: str, stream: StreamConfig, model: BevtConfig, source: Source) -> None:
    """Raise UserError, naming both values and a fix, if the tokens do not fit the recipe."""
    where, tokenizer, stored = f"{name} stream, {source.path}", source.identity, source.frames.manifest
    if stream.clip_frames > 1 and stored.num_frames == stored.num_samples:
        raise UserError(
            f"{where}: a set of images, with one frame in each of {stored.num_samples} samples, but the stream's clips "
            f"have {stream.clip_frames} frames; give a set of videos as `video_tokens`, or swap it with `image_tokens`"
        )
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{where}: the vocabulary has {tokenizer.vocab_size} tokens, but the recipe's model.vocab_size "
            f"is {model.vocab_size}; set model.vocab_size={tokenizer.vocab_size}, or use another tokenizer"
        )
    crop_px = source.crop_px
    grid = tokens_per_side(model.encoder, crop_px)
    if tokenizer.grid != grid:
        raise UserError(
            f"{where}: crops of {crop_px} px have {tokenizer.grid[0]} x {tokenizer.grid[1]} "
            f"tokens, but the recipe's encoder predicts {grid[0]:g} x {grid[1]:g} tokens; change "
            "model.encoder.patch or the tokenizer"
        )
    tubelet = tubelet_of(name, model)
    if stream.clip_frames % tubelet:
        raise UserError(
            f"{where}: streams.{name}.clip_frames is {stream.clip_frames}, not a multiple of the encoder's "
            f"{tubelet} frames per tubelet (model.encoder.patch)"
        )
    if name == "image" and stream.clip_frames != 1:
        raise UserError(f"{where}: streams.image.clip_frames is {stream.clip_frames}; an image is a clip of 1 frame")
    if stream.mask.kind not in MASKS[name]:
        raise UserError(
            f"{where}: streams.{name}.mask.kind is {stream.mask.kind!r}; "
            f"expected {' or '.join(MASKS[name])} for {name}s"
        )
