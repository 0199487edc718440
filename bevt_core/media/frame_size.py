"""One frame size per video, because clips and frame stores are arrays."""

from collections.abc import Iterable

from bevt_core.media.errors import MediaError
from bevt_core.views.replay import scaled_size


def one_size(sizes: Iterable[tuple[int, int]], short_side_px: int) -> tuple[int, int]:
    """Return the (height, width) of frames of these sizes after `shrink_short_side`. Raises MediaError if they differ.

    A video whose resolution changes but not its aspect ratio has one size, unless a frame is smaller than the short
    side.
    """
    scaled = {size if min(size) <= short_side_px else scaled_size(*size, short_side_px) for size in sizes}
    if len(scaled) != 1:
        raise MediaError("decode", "size-changes", f"frames of {len(scaled)} sizes: {sorted(scaled)[:4]}")
    return scaled.pop()
