"""Adapt a pretraining recipe to its tokens: vocabulary size, patch size for the token grid, clip length."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers import find_tokenizer, resolve_default
from bevt_core.tokenizers.description import read_description
from schemas.errors import UserError
from schemas.models import EncoderConfig
from schemas.recipes import OnlineTokens, PretrainRecipe, StreamConfig
from trainer.pretrain.targets import open_more
from trainer.setup.models import halvings, tubelet_of


class Sizes(NamedTuple):
    """The sizes of a stream's tokens."""

    vocab_size: int
    grid: tuple[int, int]  # rows, columns per frame
    crop_px: int
    max_frames: int  # per sample in the pool
    more: Mapping[str, int]  # vocabulary sizes of the further targets


def follow_tokens(recipe: PretrainRecipe, overrides: Sequence[str]) -> tuple[PretrainRecipe, list[str]]:
    """Return `recipe` with the sizes of its tokens, and one line per changed key.

    Keys set by `overrides` stay unchanged, and so do keys on which the streams differ or for which no patch of whole
    pixels yields the grid. If a token set is missing, nothing changes; opening the streams reports the error.
    """
    try:
        sizes = {name: _sizes(stream) for name, stream in recipe.streams.items()}
    except UserError:
        return recipe, []
    wanted: dict[str, Any] = {}
    vocabularies = {size.vocab_size for size in sizes.values()}
    if len(vocabularies) == 1:
        wanted["model.vocab_size"] = vocabularies.pop()
    for target in dict.fromkeys(target for size in sizes.values() for target in size.more):
        vocabularies = {size.more[target] for size in sizes.values() if target in size.more}
        if len(vocabularies) == 1:
            wanted[f"model.more_heads.{target}"] = vocabularies.pop()
    patches = {patch_for(recipe.model.encoder, size) for size in sizes.values()} - {None}
    if len(patches) == 1:
        wanted["model.encoder.patch"] = patches.pop()
    for name, stream in recipe.streams.items():
        tubelet = tubelet_of(name, recipe.model)
        longest = sizes[name].max_frames // tubelet * tubelet
        if 0 < longest < stream.clip_frames:
            wanted[f"streams.{name}.clip_frames"] = longest
    set_by_hand = {override.partition("=")[0] for override in overrides}
    data, lines = recipe.model_dump(), []
    for key, value in wanted.items():
        *parents, last = key.split(".")
        group = data
        for parent in parents:
            group = group.setdefault(parent, {})
        stored = group.get(last)
        if stored != value and not _is_set(key, set_by_hand):
            instead = "" if stored is None else f", instead of the recipe's {_short(stored)}"
            lines.append(f"{key} is {_short(value)}, as the tokens require{instead}")
            group[last] = value
    return (PretrainRecipe.model_validate(data), lines) if lines else (recipe, lines)


def patch_for(encoder: EncoderConfig, sizes: Sizes) -> tuple[int, int, int] | None:
    """Return the patch with which `encoder` predicts the token grid, or None if it is not a whole number of pixels."""
    sides = [rows * 2 ** halvings(encoder) for rows in sizes.grid]
    if any(sizes.crop_px % side for side in sides):
        return None
    return encoder.patch[0], sizes.crop_px // sides[0], sizes.crop_px // sides[1]


def _sizes(stream: StreamConfig) -> Sizes:
    if isinstance(stream.tokens, OnlineTokens):
        description = read_description(find_tokenizer(resolve_default(stream.tokens.tokenizer, lambda message: None)))
        pool = FrameStore(stream.tokens.frames).manifest.pool
        return Sizes(description.sizes.vocab_size, description.grid, stream.tokens.views.crop_px, pool.max_frames, {})
    tokens = TokenSet(stream.tokens)
    identity = tokens.manifest.tokenizer
    pool = tokens.frames.manifest.pool
    more = {name: further.manifest.tokenizer.vocab_size for name, further in open_more(stream).items()}
    return Sizes(identity.vocab_size, identity.grid, tokens.manifest.views.crop_px, pool.max_frames, more)


def _is_set(key: str, set_by_hand: Collection[str]) -> bool:
    return any(key == given or key.startswith(f"{given}.") for given in set_by_hand)


def _short(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
