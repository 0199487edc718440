"""Frames and times against a plain sequential decode: `python benchmarks/frame_order.py FILE...`.

Each file is read as it is, and as a copy in mp4 whose time stamps are those of decoding, as FFmpeg 5 makes it of an AVI
(`ffmpeg -i x.avi -c copy x.mp4`). All frames are compared, and every 8th.
"""

import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from bevt_core.media.decoding import decode_frames


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        for title, paths in (
            ("as they are", files),
            ("copied to mp4", [copy_packets(path, Path(folder) / f"{path.stem}.mp4") for path in files]),
        ):
            wrong_files = late_files = 0
            for path in paths:
                wrong, total, rising = compare(path)
                wrong_files += wrong > 0
                late_files += not rising
                if wrong or not rising:
                    times = "" if rising else "; times that do not rise"
                    print(f"  {path.name}: {wrong} of {total} frames are others than in a plain decode{times}")
            print(f"{title}: {wrong_files} of {len(paths)} files with wrong frames, {late_files} with wrong times")


def compare(path: Path) -> tuple[int, int, bool]:
    """How many frames are not those of a plain decode, of how many that were read, and whether their times rise."""
    with av.open(str(path)) as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.best("video"))]
    wrong = total = 0
    rising = True
    for stride in (1, 8):
        decoded = decode_frames(
            path, lambda num_frames, stride=stride: range(0, num_frames, stride), lambda frame: frame
        )
        pairs = zip(decoded.frame_indices, decoded.frames, strict=True)
        wrong += sum(i >= len(truth) or not np.array_equal(frame_HWC, truth[i]) for i, frame_HWC in pairs)
        total += len(decoded.frames)
        rising &= bool((np.diff(decoded.times_s) > 0).all())
    return wrong, total, rising


def copy_packets(source: Path, target: Path) -> Path:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.best("video")
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.size:
                packet.pts = packet.dts
                packet.stream = copy
                writer.mux(packet)
    return target


if __name__ == "__main__":
    main()
