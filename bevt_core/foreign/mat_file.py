"""Reading a MATLAB file, in a process that may die of it."""

import io
from typing import Any

from scipy.io import loadmat  # type: ignore[import-untyped]


def load_mat(data: bytes, variable: str) -> Any:
    """Return a variable of a MATLAB file. Raises ValueError for whatever scipy raises."""
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as error:  # noqa: BLE001 - carried to the parent
        raise ValueError(f"{type(error).__name__}: {error}") from None
