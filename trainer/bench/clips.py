"""CPU time of fine-tuning clips from video files and from a frame store of them, alternating in one process."""

import ctypes
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bevt_core.processes import process_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe
from trainer.bench.loader import cpu_seconds, file_of
from trainer.clips.isolated_frames import decoder_pid
from trainer.clips.sources import FileClips, StoreClips
from trainer.finetune.task import TrainingClips


def bench_clips(
    frames: AnyPath, root: Path, recipe: FinetuneRecipe, *, clips: int = 16, repeats: int = 4
) -> dict[str, Any]:
    """Compare the CPU time of `recipe`'s training clips from both sources over `repeats` epochs with different clips.

    The CPU time of files includes the child process that decodes them. With a store of every frame both sources give
    the same clips, except for the store's JPEG compression: `mean_difference` is the mean absolute difference of their
    pixels (0 to 255), and None for a store with fewer frames. Raises UserError if a video is not below `root`.
    """
    store = StoreClips(frames)
    sources = [item.source for item in store.items]
    counts = Counter(sources)
    whole = [at for at, source in enumerate(sources) if counts[source] == 1]  # not cut into several samples
    if not whole:
        raise UserError(f"{frames}: every video is cut into several samples, expected some that are one sample")
    chosen = [whole[at] for at in np.unique(np.linspace(0, len(whole) - 1, clips).round().astype(int))]
    found = {file_of(root, store.store.manifest.split, sources[at]): at for at in chosen}
    items = tuple(store.items[at] for at in found.values())
    # the folder below `root` that the names of sources are relative to
    base = next(iter(found)).parents[len(Path(items[0].source).parts) - 1]
    from_files = TrainingClips(FileClips(base, items, store.classes, recipe.decode_timeout_s), recipe)
    from_store = TrainingClips(store.subset(items), recipe)
    positions = list(range(len(items)))
    by_source = {item.source: at for at, item in enumerate(from_store.source.items)}
    in_store = [by_source[item.source] for item in items]

    files_s, store_s = cpu_seconds(
        [
            lambda epoch, position: from_files[epoch, position],
            lambda epoch, position: from_store[epoch, in_store[position]],
        ],
        positions,
        repeats,
        clock=_cpu_s,
    )
    differences = []
    for position in positions:
        one, other = from_files[0, position], from_store[0, in_store[position]]
        for clip in (one, other):
            if clip["error"] is not None:
                raise UserError(f"{clip['sample_id']}: {clip['error']}; the benchmark needs readable videos")
        differences.append(float((one["clip"].float() - other["clip"].float()).abs().mean()))
    return {
        "file_clips_per_cpu_s": len(positions) / files_s,
        "store_clips_per_cpu_s": len(positions) / store_s,
        "ratio_store_vs_files": files_s / store_s,
        "mean_difference": float(np.mean(differences)) if store.stride == 1 and store.uneven_item is None else None,
        "clips": len(positions),
        "repeats": repeats,
    }


def _cpu_s() -> float:
    """Return the CPU seconds used so far by this process and its decoding child."""
    pid, clock, libc = decoder_pid(), ctypes.c_int(), ctypes.CDLL(None)
    if pid is None:
        return time.process_time()
    if not hasattr(libc, "clock_getcpuclockid"):  # macOS; `ps` is less precise
        child = process_of(pid)
        return time.process_time() + (0.0 if child is None else child.cpu_s)
    if libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        return time.process_time()
    return time.process_time() + time.clock_gettime(clock.value)
