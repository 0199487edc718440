"""Clips per CPU-second from stored frames and from video files, measured alternately in one process."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bevt_core.dataset.token_set import TokenSet
from bevt_core.media.video.decoders import check_decoder
from bevt_core.storage.contained import contained
from bevt_core.views.replay import apply_view, decode_jpeg
from schemas.errors import UserError
from schemas.models import TubeMask
from trainer.data.clip_dataset import TokenDataset

CLIP_FRAMES, TUBELET = 16, 2  # as in the paper
MASK = TubeMask(kind="tube", ratio=0.5)
ReadClip = Callable[[int, int], object]  # (epoch, position) -> one clip


def bench_loader(video_tokens: Path, root: Path, *, clips: int = 16, repeats: int = 8) -> dict[str, float]:
    """Compare the CPU time of three readers to get the same clips, over `repeats` epochs with different views.

    The trainer's dataset returns pixels, tokens and mask. `decord` decodes the same frames from the files below `root`,
    with one thread, and takes the same crop. The bare loop decodes and crops the stored JPEGs, which are already in
    memory. Raises UserError without decord, or if a video of the token set is not below `root`.
    """
    check_decoder("decord")
    import decord

    tokens = TokenSet(video_tokens)
    cached_parts = tokens.manifest.num_parts * tokens.manifest.views.num_views  # all row groups stay in memory
    dataset = TokenDataset(
        tokens, name="video", seed=0, clip_frames=CLIP_FRAMES, tubelet=TUBELET, mask=MASK, cached_parts=cached_parts
    )
    positions = np.unique(np.linspace(0, len(dataset) - 1, clips).round().astype(int)).tolist()
    rows = {position: tokens.frames.row(position) for position in positions}
    files = {position: file_of(root, tokens.frames.manifest.split, row["source"]) for position, row in rows.items()}
    jpegs: dict[tuple[int, int], Sequence[np.ndarray]] = {}
    for epoch in range(repeats + 1):
        for position in positions:
            part, start, count, _ = dataset.locate(epoch, position)
            jpegs[epoch, position] = tokens.frames.read_jpegs(part, rows[position]["frame_start"] + start, count)

    def from_shards(epoch: int, position: int) -> object:
        return dataset[epoch, position]

    def from_files(epoch: int, position: int) -> object:
        _, start, count, view = dataset.locate(epoch, position)
        reader = decord.VideoReader(str(files[position]), num_threads=1)
        frames_THWC = reader.get_batch(rows[position]["frame_indices"][start : start + count]).asnumpy()
        return np.stack([apply_view(frame_HWC, view, dataset.backend) for frame_HWC in frames_THWC])

    def bare_jpegs(epoch: int, position: int) -> object:
        view = dataset.locate(epoch, position)[3]
        return [apply_view(decode_jpeg(jpeg), view, dataset.backend) for jpeg in jpegs[epoch, position]]

    ours_s, decord_s, jpeg_s = cpu_seconds([from_shards, from_files, bare_jpegs], positions, repeats)
    return {
        "clips_per_cpu_s": len(positions) / ours_s,
        "decord_clips_per_cpu_s": len(positions) / decord_s,
        "bare_jpeg_clips_per_cpu_s": len(positions) / jpeg_s,
        "ratio_vs_decord": decord_s / ours_s,
        "ratio_vs_bare_jpeg": jpeg_s / ours_s,
        "clips": len(positions),
        "repeats": repeats,
    }


def cpu_seconds(
    readers: Sequence[ReadClip],
    positions: Sequence[int],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """Run each of `readers` over all positions, in turn; return the mean CPU seconds per epoch of each.

    They include all threads. Epoch 0 is a warm-up and not counted.
    """
    seconds = [0.0] * len(readers)
    for epoch in range(repeats + 1):
        for i, read in enumerate(readers):
            began = clock()
            for position in positions:
                read(epoch, position)
            seconds[i] += (clock() - began) if epoch else 0.0
    return [total / repeats for total in seconds]


def file_of(root: Path, split: str, source: str) -> Path:
    """Return the file that a frame store's sample was made from. Raises UserError if it is not below `root`."""
    for path in (contained(root, source), contained(root, f"{split}/{source}")):
        if path.is_file():
            return path
    raise UserError(f"{root}: no {source} in it, a source of the dataset; give the same `root` as for `bevt tokenize`")
