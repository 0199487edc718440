"""Reading of a MATLAB file, run in a child process that may crash."""

import io
from typing import Any

from scipy.io import loadmat  # type: ignore[import-untyped]


def load_mat(data: bytes, variable: str) -> Any:
    """Return a variable of a MATLAB file. Raises ValueError in place of any exception from scipy."""
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as error:  # noqa: BLE001 - carried to the parent
        raise ValueError(f"{type(error).__name__}: {error}") from None
