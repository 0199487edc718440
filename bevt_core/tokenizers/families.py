"""The registry of tokenizer families: what `kind` in a `tokenizer.json` means. Plug-ins join through an entry point.

Imports no torch, and a plug-in only when its kind is asked for: a built-in kind never looks at installed packages.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from schemas.base import Record
from schemas.errors import UserError
from schemas.recipes.loading import nearest

GROUP = "bevt.tokenizers"  # the entry points: the name is the kind, the object a Family
BUILT_IN = {
    "dalle": "bevt_core.tokenizers.dvae.family:DALLE",
    "dvae": "bevt_core.tokenizers.dvae.family:DVAE",
    "peco": "bevt_core.tokenizers.peco.family:PECO",
    "ibq": "bevt_core.tokenizers.taming.family:IBQ",
    "llamagen": "bevt_core.tokenizers.taming.family:LLAMAGEN",
    "magvit2": "bevt_core.tokenizers.magvit2.family:MAGVIT2",
    "vqgan": "bevt_core.tokenizers.taming.family:VQGAN",
    "vqkd": "bevt_core.tokenizers.vqkd.family:VQKD",
}

AGAINST_ORIGINAL = "Ids and vectors were compared with the original code's, on random weights at a small size."

Blocks = Annotated[int, Field(ge=1, le=64)]
Multiplier = Annotated[int, Field(ge=1, le=64)]


class TokenizerSizes(Record):
    """The base of each family's sizes, whose defaults are the published model's. `vocab_size` is a field of each."""

    if TYPE_CHECKING:  # a field here would be written before the others, and change the files of version 1
        vocab_size: int

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        raise NotImplementedError

    @property
    def full_width(self) -> int:
        """Values of the largest activation per pixel of the input, from which the frames per pass on a GPU follow."""
        raise NotImplementedError


class PyramidSizes(TokenizerSizes):
    """Sizes of networks that halve the resolution between the entries of `multipliers`."""

    if TYPE_CHECKING:
        width: int
        multipliers: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Width of one token in pixels."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def full_width(self) -> int:
        """Channels at full resolution."""
        return self.width * self.multipliers[0]


@dataclass(frozen=True)
class Family:
    """A kind of tokenizer. Functions are named as "module:function" and imported when they are called."""

    kind: str
    sizes: type[TokenizerSizes]
    input_px: int  # of a converted tokenizer
    load: str  # (StoredTokenizer, Weights, **arguments of Tokenizer) -> Tokenizer
    convert: str | None = None  # (published tensors by name) -> Converted; None: nothing to convert
    checked: str | None = None  # a sentence for the card of a converted tokenizer: what the network was compared with
    forms: tuple[type[TokenizerSizes], ...] = ()  # sizes of other networks of this kind; the default of `form` differs

    def sizes_of(self, form: object) -> type[TokenizerSizes]:
        """Return the sizes of the form that a description names, None being the one of `sizes`."""
        return next((sizes for sizes in self.forms if sizes.model_fields["form"].default == form), self.sizes)


def family_of(kind: str) -> Family:
    """Return the family of `kind`, built in or a plug-in's.

    Raises UserError for an unknown kind, and for a plug-in that cannot be imported, registers something else, or has
    the kind of another one.
    """
    if kind in BUILT_IN:
        family: Family = named_object(BUILT_IN[kind])
        return family
    return _plugin_family(kind)


def known_kinds() -> list[str]:
    """Return all kinds, built in and of plug-ins, sorted; imports no plug-in. Raises UserError for a clash."""
    entries = importlib.metadata.entry_points(group=GROUP)
    for name in entries.names:
        _only(name, [entry for entry in entries if entry.name == name])
    return sorted({*BUILT_IN, *entries.names})


def named_object(reference: str) -> Any:
    """Import the object that "module:name" refers to. Raises what the import raises."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _plugin_family(kind: str) -> Family:
    entries = list(importlib.metadata.entry_points(group=GROUP, name=kind))
    if not entries:
        known = known_kinds()
        raise UserError(
            f"unknown kind of tokenizer {kind!r}; {nearest(kind, known)}known: {', '.join(known)}; install the package "
            f"that adds it (entry point group {GROUP})"
        )
    entry = _only(kind, entries)
    try:
        family = entry.load()
    except Exception as error:
        raise UserError(f"{_plugin(entry)} cannot be imported: {_reason(error)}; update or uninstall it") from error
    if not isinstance(family, Family):
        raise UserError(f"{_plugin(entry)} is a {type(family).__name__}, expected a {__name__}.Family")
    if family.kind != kind:
        raise UserError(f"{_plugin(entry)} has the kind {family.kind!r}; name its entry point {family.kind!r}")
    if not issubclass(family.sizes, TokenizerSizes) or "vocab_size" not in family.sizes.model_fields:
        raise UserError(f"{_plugin(entry)}: its sizes are not a TokenizerSizes with a field vocab_size")
    return family


def _only(kind: str, entries: Iterable[importlib.metadata.EntryPoint]) -> importlib.metadata.EntryPoint:
    """Return the one entry point of `kind`. Raises UserError if another plug-in, or bevt itself, has the kind too."""
    entries = list(dict.fromkeys(entries))  # a path that is listed twice yields its packages twice
    if kind in BUILT_IN:
        raise UserError(f"{_plugin(entries[0])} has the name of a built-in kind; rename it, or uninstall the package")
    if len(entries) > 1:
        named = " and ".join(_plugin(entry) for entry in entries)
        raise UserError(f"two plug-ins add the kind {kind!r}: {named}; uninstall one")
    return entries[0]


def _plugin(entry: importlib.metadata.EntryPoint) -> str:
    owner = "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"tokenizer plug-in {entry.name!r} of {owner} ({entry.value})"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
