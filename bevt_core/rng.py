"""Random generators keyed by their purpose, so that a draw does not depend on the worker that makes it."""

import hashlib

import numpy as np


def rng_for(*key: object) -> np.random.Generator:
    """Return the generator for `key`, e.g. `rng_for(seed, epoch, sample_id)`.

    Equal keys give equal streams on every machine. Elements of a key need a stable `repr`: numbers, strings, tuples.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
