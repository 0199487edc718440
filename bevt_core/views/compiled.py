"""Functions compiled by numba. Importing this module takes a second, so import it only if compiled code saves more."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile once per machine if a cache folder is writable, otherwise once per process."""
    njit: Callable[..., Callable[[F], F]] = numba.njit
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither this folder nor the user's cache is writable
        return njit(nogil=True)(function)
