"""Reading a MATLAB file, in a process that may die of it."""

import io
import resource
from typing import Any

LIMIT_BYTES = 4 << 30  # of address space


def load_mat(data: bytes, variable: str) -> Any:
    """Return a variable of a MATLAB file. Raises ValueError for whatever scipy raises."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as error:  # noqa: BLE001 - carried to the parent
        raise ValueError(f"{type(error).__name__}: {error}") from None
