"""Our decoding against plain decord and plain PyAV, at equal frames: `python benchmarks/decoding.py FILE...`.

Every 8th frame of each file, as the recipe of Kinetics-400 keeps them; CPU seconds, the median of ROUNDS alternating
rounds. The plain loops do what anyone would write, without a look at the packets before. With JPEG: ours scales and
encodes, the faster plain loop only decodes.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np

from bevt_core.media.decoding import decode_frames
from bevt_core.views.replay import encode_jpeg, shrink_short_side

STRIDE, ROUNDS, SHORT_SIDE_PX, QUALITY = 8, 5, 256, 90


def main() -> None:
    totals: dict[str, float] = {}
    for path in map(Path, sys.argv[1:]):
        chosen = decode_frames(path, every_eighth, lambda frame: None)
        wanted = chosen.frame_indices
        loops: dict[str, Callable[[], list[np.ndarray]]] = {
            "ours": lambda: decode_frames(path, every_eighth, lambda frame: frame).frames,  # noqa: B023
            "decord": lambda: plain_decord(path, wanted),  # noqa: B023
            "PyAV": lambda: plain_pyav(path, wanted),  # noqa: B023
            "ours with JPEG": lambda: decode_frames(path, every_eighth, to_jpeg).frames,  # noqa: B023
        }
        spent: dict[str, list[float]] = {name: [] for name in loops}
        frames: dict[str, list[np.ndarray]] = {}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                began = time.process_time()
                try:
                    frames[name] = loop()
                except (decord.DECORDError, av.FFmpegError, RuntimeError):
                    spent[name].append(float("inf"))
                else:
                    spent[name].append(time.process_time() - began)
        medians = {name: statistics.median(times) for name, times in spent.items()}
        right = [name for name in ("decord", "PyAV") if same(frames.get(name), frames["ours"])]
        fastest = min((medians[name] for name in right), default=float("nan"))
        print(
            f"{path.name:34.34s} {len(wanted):4d} frames by {chosen.decoder:6s} "
            + "  ".join(f"{name} {seconds * 1e3:7.1f} ms" for name, seconds in medians.items())
            + f"  right: {', '.join(right) or 'none'}; ours {medians['ours'] / fastest:.2f} x the faster of these, "
            f"with JPEG {medians['ours with JPEG'] / fastest:.2f}",
            flush=True,
        )
        if right:
            for name, seconds in (*medians.items(), ("fastest", fastest)):
                totals[name] = totals.get(name, 0.0) + seconds
    print(
        f"all together: ours {totals['ours'] / totals['fastest']:.2f} x the faster plain loop of each file, "
        f"with JPEG {totals['ours with JPEG'] / totals['fastest']:.2f}"
    )


def every_eighth(num_frames: int) -> np.ndarray:
    return np.arange(0, num_frames, STRIDE)


def to_jpeg(frame_HWC: np.ndarray) -> bytes:
    return encode_jpeg(shrink_short_side(frame_HWC, SHORT_SIDE_PX), QUALITY)


def plain_decord(path: Path, wanted: list[int]) -> list[np.ndarray]:
    reader = decord.VideoReader(str(path), num_threads=1)
    return list(reader.get_batch(wanted).asnumpy())


def plain_pyav(path: Path, wanted: list[int]) -> list[np.ndarray]:
    """One pass through the file, up to the last frame that is wanted."""
    left = set(wanted)
    kept = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for position, frame in enumerate(container.decode(stream)):
            if position in left:
                kept.append(frame.to_ndarray(format="rgb24"))
                left.remove(position)
                if not left:
                    break
    return kept


def same(found: list[np.ndarray] | None, ours: list[np.ndarray]) -> bool:
    """Whether a plain loop gave our frames, to within what two colour conversions differ by."""
    if found is None or len(found) != len(ours):
        return False
    pairs = zip(found, ours, strict=True)
    return all(a.shape == b.shape and np.abs(a.astype(np.int16) - b).mean() < 1 for a, b in pairs)


if __name__ == "__main__":
    main()
