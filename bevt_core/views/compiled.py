"""Functions compiled by numba. Importing this module takes a second: import it where compiled code pays for that."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile once a machine, where there is a folder to keep the result in, and once a process where there is none."""
    njit: Callable[..., Callable[[F], F]] = numba.njit
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither this folder nor the user's cache can be written
        return njit(nogil=True)(function)
