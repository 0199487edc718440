"""Tokenizers: frames in, token ids out. `load_tokenizer` returns one, with the identity that token sets record.

Finding a tokenizer and reading its description do not import torch.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bevt_core.storage.files import read_record
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.description import DESCRIPTION, read_description
from bevt_core.tokenizers.published.catalogue import CATALOGUE, DALLE
from schemas.errors import UserError
from schemas.recipes.loading import nearest
from schemas.tokens import TOKENIZER_PLACE, TokenizerIdentity, TokenizerPlace

if TYPE_CHECKING:
    import torch

    from bevt_core.tokenizers.base import Tokenizer

__all__ = ["find_tokenizer", "load_tokenizer"]

PRETRAINED = Path(__file__).parent / "pretrained"  # ships with the package
DEFAULT = "default"  # in a recipe: PUBLISHED if its weights are found, else EMBEDDED
PUBLISHED, EMBEDDED = "dalle", "dvae-small"


def tokenizer_cache() -> Path:
    """The folder of named tokenizers: $BEVT_TOKENIZERS, or ~/.cache/bevt/tokenizers."""
    return Path(os.environ.get("BEVT_TOKENIZERS", Path.home() / ".cache" / "bevt" / "tokenizers"))


def find_tokenizer(path_or_name: str | Path) -> Path:
    """Find a tokenizer's folder by path, or by name in the package or in `tokenizer_cache()`.

    Raises UserError, with every folder that was tried, if none exists.
    """
    folders = _candidates(path_or_name)
    for folder in folders:
        if folder.is_dir():
            return folder
    tried = ", ".join(map(str, folders))
    name = Path(path_or_name).name
    if name in (DALLE, *CATALOGUE):
        command = f"bevt tokenizer fetch {name}"
        if name != str(path_or_name):
            command = f"bevt tokenizer fetch {name} --out {path_or_name}"
        raise UserError(
            f"tokenizer {str(path_or_name)!r} not found; download it with `{command}`, or give its folder "
            f"(tried {tried})"
        )
    shipped = sorted(entry.name for entry in PRETRAINED.glob("*/"))
    known = [folder.name for folder in _named_tokenizers()]
    raise UserError(
        f"tokenizer {str(path_or_name)!r} not found; {nearest(str(path_or_name), known)}"
        f"tried {tried}; included in the package: {', '.join(shipped) or 'none'}; "
        "train one with `bevt tokenizer train dvae --preset nano ...`, "
        "or convert the published weights with `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
    )


def find_made_by(identity: TokenizerIdentity, *folders: Path) -> Path:
    """Find the tokenizer that made a token set, by its weights: in `folders` first, then among all named tokenizers.

    Raises UserError if there is none.
    """
    for folder in [*folders, *_candidates(identity.name), *_named_tokenizers()]:
        if _weights_in(folder) == identity.weights_sha256:
            return folder
    raise UserError(
        f"no tokenizer with the weights {identity.weights_sha256[:12]} ({identity.name}) found; "
        "give its folder as `tokenizer`"
    )


def tokenizer_of(tokens_dir: AnyPath, identity: TokenizerIdentity, given: str | None = None) -> Path:
    """Find the tokenizer that made a token set, to check or decode the set with it.

    `given` is used only if it produced this token set; otherwise the folder recorded beside the set is tried, then all
    named tokenizers. Raises UserError if none has the set's weights, or if `given` does not exist. An unreadable record
    of the folder is ignored: it is excluded from every digest.
    """
    folders = [] if given is None else [find_tokenizer(given)]
    with contextlib.suppress(UserError):
        recorded = read_record(tokens_dir / TOKENIZER_PLACE, TokenizerPlace)
        folders += [] if recorded is None else [Path(recorded.folder)]
    return find_made_by(identity, *folders)


def resolve_default(name: str, warn: Callable[[str], None]) -> str:
    """Resolve a recipe's `tokenizer`: DEFAULT to a name or folder; any other value is returned unchanged.

    Calls `warn` with a short message if DEFAULT does not resolve to the paper's tokenizer.
    """
    if name != DEFAULT:
        return name
    for folder in _candidates(PUBLISHED):
        if (folder / DESCRIPTION).is_file():
            return str(folder)
    warn(
        f"the weights of the published tokenizer {PUBLISHED!r} were not found, so the bundled {EMBEDDED!r} is used: "
        "it is small, has 1024 codes, and its results cannot be compared with the paper's. "
        f"Download the published one with `bevt tokenizer fetch {PUBLISHED}`, or name {EMBEDDED!r} as the tokenizer"
    )
    return EMBEDDED


def load_tokenizer(
    path_or_name: str | Path,
    device: "str | torch.device" = "cpu",
    dtype: str = "float32",
    pass_frames: int | None = None,
) -> "Tokenizer":
    """Load a stored tokenizer for inference, in passes of `pass_frames` frames (None: the device's default).

    Raises UserError if it does not exist, if its files do not match its description, for an unknown dtype, and for
    settings that the device does not support.
    """
    from bevt_core.tokenizers.loading import load_stored  # imports torch

    return load_stored(find_tokenizer(path_or_name), device, dtype, pass_frames)


def _candidates(path_or_name: str | Path) -> list[Path]:
    path = Path(path_or_name)
    return [path, PRETRAINED / path, tokenizer_cache() / path] if len(path.parts) == 1 else [path]


def _weights_in(folder: Path) -> str | None:
    try:
        return read_description(folder).encoder_sha256
    except UserError:  # no tokenizer, or one of another version of bevt
        return None


def _named_tokenizers() -> Iterator[Path]:
    for parent in (PRETRAINED, tokenizer_cache()):
        yield from sorted(file.parent for file in parent.glob(f"*/{DESCRIPTION}"))
