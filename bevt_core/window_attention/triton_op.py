"""The Triton kernel is not part of this commit."""

from typing import Any


def supported(*_: Any) -> bool:
    return False


def window_attention(*_: Any) -> Any:
    raise NotImplementedError
