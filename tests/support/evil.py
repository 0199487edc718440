"""What a decoder may do to its process, for tests that run it in a child."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from bevt_core.dataset.frame_store import FrameSample
from pipeline.job.decode_part import load_source
from schemas.frames import MediaKind, PoolSpec, SourceItem, VideoDecoder
from tests.support.misbehaviour import misbehave
from trainer.clips.isolated_frames import decode


def evil_decoder(path: Path, kind: MediaKind, short_side_px: int) -> tuple[list[np.ndarray], list[int]]:
    """`decode` of fine-tuning's files, but some names hang or die."""
    if path.stem in ("hang", "segfault", "exit"):
        misbehave(path.stem)
    return decode(path, kind, short_side_px)


def evil_loader(root: Path, item: SourceItem, pool: PoolSpec, seed: int, decoder: VideoDecoder) -> list[FrameSample]:
    """`load_source`, but some names hang, die, or do so the first time only."""
    if "hangs" in item.source:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(60)
    if "segfaults" in item.source:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "once" in item.source and not (root / "again").exists():
        (root / "again").touch()
        os._exit(1)
    if "memory" in item.source:
        raise MemoryError
    return load_source(root, item, pool, seed, decoder)
