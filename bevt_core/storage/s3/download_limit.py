"""A limit on the bytes of a download, checked in fsspec's progress callback."""

from typing import Any


class TooLong(Exception):
    """An object is larger than expected."""


def at_most(max_bytes: int | None) -> Any:
    """A callback for `get_file` that raises TooLong after more than `max_bytes`; None: no limit."""
    from fsspec.callbacks import Callback

    class Bounded(Callback):  # type: ignore[misc] # fsspec has no types
        def set_size(self, size: int | None) -> None:
            self._check(size or 0)

        def relative_update(self, inc: int = 1) -> None:
            self.value += inc
            self._check(self.value)

        def _check(self, num_bytes: int) -> None:
            if max_bytes is not None and num_bytes > max_bytes:
                raise TooLong

    return Bounded()
