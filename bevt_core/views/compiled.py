"""Functions compiled by numba. Importing this module takes a second: import it where compiled code pays for that."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile once a machine, where there is a folder to keep the result in, and once a process where there is none."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither this folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)
