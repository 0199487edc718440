"""Functions compiled by numba. Importing this module takes a second, so import it only if compiled code saves more."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile once per machine if a cache folder is writable, otherwise once per process."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither this folder nor the user's cache is writable
        return numba.njit(nogil=True)(function)
