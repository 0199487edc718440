"""Several targets: the tokens of several tokenizers for the same frames under the same views, each with an LM head."""

import re
from collections.abc import Mapping, Sequence

from bevt_core.dataset.token_set import TokenSet, token_set_folders
from bevt_core.storage.objects import AnyPath, as_path
from schemas.errors import UserError
from schemas.models import BevtConfig
from schemas.recipes import OnlineTokens, PretrainRecipe, StreamConfig
from schemas.text.json_text import json_text
from schemas.views import ViewSpec

MANIFEST = "dataset.json"  # of a finished token set


def open_more(stream: StreamConfig) -> dict[str, TokenSet]:
    """Open the token sets of a stream's further targets. Raises UserError, naming the target."""
    opened = {}
    for name, target in sorted(stream.more_targets.items()):
        try:
            opened[name] = TokenSet(target.tokens)
        except UserError as error:
            raise UserError(f"target {name}: {error}") from None
    return opened


def check_targets(stream: str, tokens: TokenSet, more: Mapping[str, TokenSet], model: BevtConfig) -> None:
    """Raise UserError, naming both token sets and a fix, unless `more` belong to the frames and views of `tokens`.

    Their grids must be equal, and each vocabulary that of the model's head.
    """
    first = tokens.manifest
    for name, further in more.items():
        where, other = f"{stream} stream, target {name}, {further.path}", further.manifest
        if other.frames_digest != first.frames_digest:
            raise UserError(
                f"{where}: made from the frame store {other.frames_digest[:12]}, but {tokens.path} from "
                f"{first.frames_digest[:12]}; give token sets of one dataset"
            )
        if differing := different_views(first.views, other.views):
            values = "; ".join(f"views.{key} is {there}, but {here} in {tokens.path}" for key, here, there in differing)
            settings = " ".join(f"`views.{key}={json_text(here)}`" for key, here, _ in differing)
            raise UserError(f"{where}: {values}; targets need the same views: tokenize it again with {settings}")
        if other.tokenizer.grid != first.tokenizer.grid:
            here, there = (" x ".join(map(str, each.tokenizer.grid)) for each in (first, other))
            raise UserError(
                f"{where}: {there} tokens per frame, but {here} in {tokens.path}; use tokenizers with the same grid"
            )
        size, head = other.tokenizer.vocab_size, model.more_heads.get(name)
        if size != head:
            found = f"model.more_heads.{name} is {head}" if head else f"model.more_heads has no {name}"
            raise UserError(
                f"{where}: the vocabulary has {size} tokens, but the recipe's {found}; set "
                f"model.more_heads.{name}={size}"
            )


def check_heads(recipe: PretrainRecipe) -> None:
    """Raise UserError if the recipe's model has no head for a further target: its vocabulary is unknown."""
    for name, stream in recipe.streams.items():
        for target in stream.more_targets:
            if target not in recipe.model.more_heads:
                raise UserError(
                    f"{name} stream: model.more_heads has no {target}; set model.more_heads.{target} to its "
                    "vocabulary size"
                )


def different_views(first: ViewSpec, other: ViewSpec) -> list[tuple[str, float, float]]:
    """Return the settings in which two sets of views differ: their name, then both values."""
    pairs = [(key, getattr(first, key), getattr(other, key)) for key in ViewSpec.model_fields]
    return [pair for pair in pairs if pair[1] != pair[2]]


def with_targets(recipe: PretrainRecipe, names: str) -> PretrainRecipe:
    """Return `recipe` with the targets `names`, separated by commas, in every stream; they replace the recipe's.

    A name is that of a token set beside the stream's, with or without its `-vN`. The first target becomes the stream's
    `tokens` and the model's `first_target`; the others become `more_targets`, and may be followed by `:WEIGHT`, their
    loss weight. Raises UserError for a name without a token set, or with several.
    """
    (first, first_weight), *others = [_parsed(word) for word in names.split(",")]
    if first_weight is not None:
        raise UserError(
            f"`targets` {names}: {first} is the first target, whose weight is streams.*.loss_weight; give weights only "
            "to the others"
        )
    repeated = [name for at, (name, _) in enumerate(others) if name in (first, *(other for other, _ in others[:at]))]
    if repeated:
        raise UserError(f"`targets` {names}: {repeated[0]} appears twice; give each target once")
    streams = {}
    for name, stream in recipe.streams.items():
        if isinstance(stream.tokens, OnlineTokens):
            raise UserError(
                f"`targets` {names}: the {name} stream computes its tokens in the step; use a recipe with token sets"
            )
        folder = as_path(stream.tokens)
        chosen = find_beside(folder, first, None)
        targets = {
            other: {
                "tokens": str(find_beside(folder, other, chosen).path),
                "loss_weight": 1.0 if weight is None else weight,
            }
            for other, weight in others
        }
        streams[name] = stream.model_dump() | {"tokens": str(chosen.path), "more_targets": targets}
    heads = {name: size for name, size in recipe.model.more_heads.items() if name in dict(others)}
    model = recipe.model.model_dump() | {"more_heads": heads, "first_target": first}
    return PretrainRecipe.model_validate(recipe.model_dump() | {"model": model, "streams": streams})


def _parsed(word: str) -> tuple[str, float | None]:
    name, colon, weight = word.strip().partition(":")
    try:
        value = float(weight) if colon else None
    except ValueError:
        value = -1.0
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,49}", name, re.ASCII) or (value is not None and not 0 <= value <= 1e6):
        raise UserError(f"`targets`: {word!r}; expected names of token sets, such as dalle,vqkd or dalle,vqkd:0.5")
    return name, value


def find_beside(tokens: AnyPath, name: str, first: TokenSet | None) -> TokenSet:
    """Return the token set `name` or `name-vN` beside the set `tokens`.

    Of several numbers of views, that of `first` is chosen, or without it the set `tokens` itself.
    """
    folders = token_set_folders(tokens.parent.parent, MANIFEST)
    found = [path for path in folders if path.name == name] or [
        path for path in folders if re.fullmatch(rf"{re.escape(name)}-v\d+", path.name)
    ]
    if len(found) > 1:
        same = [path for path in found if (path == tokens if first is None else _has_views(path, first))]
        found = same or found
    if len(found) == 1:
        return TokenSet(found[0])
    where = f"`targets` {name}: {tokens.parent}"
    if found:
        raise UserError(f"{where} has several token sets of that name, {_names(found)}; give the full name of one")
    raise UserError(
        f"{where} has no token set {name} or {name}-vN, only {_names(folders) or 'none'}; make it with `bevt tokenize`"
    )


def _has_views(path: AnyPath, first: TokenSet) -> bool:
    return TokenSet(path).manifest.views == first.manifest.views


def _names(folders: Sequence[AnyPath]) -> str:
    return ", ".join(path.name for path in folders)
