"""Tokenizers: frames in, token ids out. `load_tokenizer` is the one door; what comes out knows its own identity.

Finding one and reading its card load no torch.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bevt_core.storage.files import read_record
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.card import CARD, read_card
from schemas.errors import UserError
from schemas.tokens import TOKENIZER_PLACE, TokenizerIdentity, TokenizerPlace

if TYPE_CHECKING:
    import torch

    from bevt_core.tokenizers.base import Tokenizer

__all__ = ["find_tokenizer", "load_tokenizer"]

PRETRAINED = Path(__file__).parent / "pretrained"  # ships with the package
DEFAULT = "default"  # what a recipe says for PUBLISHED where its weights are found, else EMBEDDED
PUBLISHED, EMBEDDED = "dalle", "dvae-small"


def tokenizer_cache() -> Path:
    """Where named tokenizers are kept: $BEVT_TOKENIZERS, or ~/.cache/bevt/tokenizers."""
    return Path(os.environ.get("BEVT_TOKENIZERS", Path.home() / ".cache" / "bevt" / "tokenizers"))


def find_tokenizer(path_or_name: str | Path) -> Path:
    """A folder, or the name of one in the package or in `tokenizer_cache()`. Raises UserError naming all three."""
    places = _places(path_or_name)
    for place in places:
        if place.is_dir():
            return place
    shipped = sorted(entry.name for entry in PRETRAINED.glob("*/"))
    raise UserError(
        f"tokenizer {str(path_or_name)!r} not found (looked at {', '.join(map(str, places))}; "
        f"the package brings: {', '.join(shipped) or 'none'}); "
        "make one with `bevt tokenizer train dvae --preset nano ...`, "
        "or from the published weights with `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
    )


def find_made_by(identity: TokenizerIdentity, *places: Path) -> Path:
    """The tokenizer that a token set was made by: the first of `places`, or else of all named ones, with its weights.

    Raises UserError where there is none.
    """
    for place in [*places, *_places(identity.name), *_named_tokenizers()]:
        if _weights_in(place) == identity.weights_sha256:
            return place
    raise UserError(
        f"no tokenizer with the weights {identity.weights_sha256[:12]} ({identity.name}) is here; "
        "give its folder with --tokenizer"
    )


def tokenizer_of(tokens_dir: AnyPath, identity: TokenizerIdentity, given: str | None = None) -> Path:
    """The tokenizer to check or decode a set with: the one that is given, or the one that made it, where it was then.

    What is given counts for the sets that it made; for another one its own is looked for. Raises UserError where that
    is not to be found. A note of its place that cannot be read is as good as none: no digest has it.
    """
    places = [] if given is None else [find_tokenizer(given)]
    with contextlib.suppress(UserError):
        noted = read_record(tokens_dir / TOKENIZER_PLACE, TokenizerPlace)
        places += [] if noted is None else [Path(noted.folder)]
    return find_made_by(identity, *places)


def settle_default(name: str, warn: Callable[[str], None]) -> str:
    """The name or folder that a recipe's `tokenizer` stands for; only DEFAULT stands for another.

    `warn` is told, in one sentence or two, when that is not the paper's tokenizer.
    """
    if name != DEFAULT:
        return name
    for place in _places(PUBLISHED):
        if (place / CARD).is_file():
            return str(place)
    warn(
        f"no weights of the published tokenizer {PUBLISHED!r} are here, so the embedded {EMBEDDED!r} is used: small, "
        "with 1024 codes, not for figures that are compared with the paper. "
        f"Get the published one with `bevt tokenizer fetch {PUBLISHED}`, or say --tokenizer {EMBEDDED}"
    )
    return EMBEDDED


def load_tokenizer(
    path_or_name: str | Path,
    device: "str | torch.device" = "cpu",
    dtype: str = "float32",
    pass_frames: int | None = None,
) -> "Tokenizer":
    """Load a stored tokenizer for inference, in passes of `pass_frames` frames (None: the device's default).

    Raises UserError where there is none, where its files do not match its card, for an unknown dtype, and for what the
    device cannot do.
    """
    from bevt_core.tokenizers.loading import load_stored  # torch comes with it

    return load_stored(find_tokenizer(path_or_name), device, dtype, pass_frames)


def _places(path_or_name: str | Path) -> list[Path]:
    path = Path(path_or_name)
    return [path, PRETRAINED / path, tokenizer_cache() / path] if len(path.parts) == 1 else [path]


def _weights_in(place: Path) -> str | None:
    try:
        return read_card(place).encoder_sha256
    except UserError:  # none, or of another version of bevt
        return None


def _named_tokenizers() -> Iterator[Path]:
    for home in (PRETRAINED, tokenizer_cache()):
        yield from sorted(card.parent for card in home.glob(f"*/{CARD}"))
