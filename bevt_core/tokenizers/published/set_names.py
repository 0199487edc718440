"""The default names of token sets: `KIND-vVIEWS`, with the number of codes if a kind is published with several.

dalle-v8   vqkd-v8   ibq-8192-v8   ibq-16384-v8
"""

from collections import Counter

from bevt_core.dataset.token_set import read_token_plan
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.published.catalogue import CATALOGUE

_PUBLISHED = Counter(entry.kind for entry in CATALOGUE.values())  # kind -> number of its published tokenizers


def short_name(kind: str, vocab_size: int) -> str:
    """The name of a tokenizer in the names of its token sets."""
    return f"{kind}-{vocab_size}" if _PUBLISHED[kind] > 1 else kind


def default_set_name(tokenizer: StoredTokenizer, num_views: int, tokens: AnyPath) -> str:
    """The name of the token set of `tokenizer` below the folder `tokens`, unless the user gives one.

    A set of the same tokenizer that has the name of older versions, without the number of codes, keeps it.
    """
    name = f"{short_name(tokenizer.kind, tokenizer.sizes.vocab_size)}-v{num_views}"
    older = f"{tokenizer.kind}-v{num_views}"
    if name != older:
        stored = read_token_plan(tokens / older)
        if stored is not None and stored.tokenizer.weights_sha256 == tokenizer.encoder_sha256:
            return older
    return name
