"""One part of a token set: replay the views on the stored frames, tokenize them, commit.

Legend: V views, F frames of the part, N frames of a batch, P the tokenizer's input side, h x w the token grid.
"""

import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from bevt_core.dataset.commits import FRAMES_ZARR
from bevt_core.dataset.frame_rows import check_index
from bevt_core.dataset.frame_store import local_part
from bevt_core.dataset.jpeg_array import JpegStore
from bevt_core.dataset.token_set import PartView, write_token_part
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.base import Tokenizer, encode_batches
from bevt_core.untrusted.parquet_file import read_table
from bevt_core.views.replay import apply_view, decode_jpeg, draw_view, halve
from bevt_core.views.resample import backend_for
from pipeline.job.busy import TokenizeTimes
from schemas.frames import FramePartCommit
from schemas.tokens import TokenPartCommit, TokenPlan
from schemas.views import View, ViewSpec

CHUNK_FRAMES = 8  # frames that a thread prepares at a time, under all views: 20 views at 112 px need 6 MB
READ_FRAMES = 32 * CHUNK_FRAMES  # read at a time: some 5 MB

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FramePart:
    """One committed part of a frame store: its index, and its JPEG frames, which are read when they are needed."""

    index: pa.Table
    jpegs: JpegStore | Sequence[np.ndarray]


@contextmanager
def open_frame_part(frames_dir: AnyPath, commit: FramePartCommit) -> Iterator[FramePart]:
    """Open a part, also of an unfinished frame store. `commit` must have been checked."""
    with local_part(frames_dir, commit) as folder:
        path = folder / "index.parquet"
        yield FramePart(check_index(read_table(path), path), JpegStore(folder / FRAMES_ZARR))


def draw_views(spec: ViewSpec, index: pa.Table) -> list[list[View]]:
    """The views `[view][sample]` of the samples of an index."""
    sizes = index.select(["sample_id", "height", "width"]).to_pylist()
    return [
        [draw_view(spec, row["sample_id"], view, row["height"], row["width"]) for row in sizes]
        for view in range(spec.num_views)
    ]


class PartTokenizer:
    """Tokenizes parts on one device. Thread-safe: one thread prepares a part while another uses the device."""

    def __init__(self, tokenizer: Tokenizer, batch_frames: int, threads: int) -> None:
        """`batch_frames` is rounded up to whole passes of the tokenizer, so that only a part's last batch is padded."""
        self.tokenizer = tokenizer
        self.batch_frames = -(-batch_frames // tokenizer.pass_frames) * tokenizer.pass_frames
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="views")
        self._device = threading.Lock()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def make_token_part(
        self, frames_dir: AnyPath, tokens_dir: AnyPath, frames: FramePartCommit, plan: TokenPlan
    ) -> tuple[TokenPartCommit, TokenizeTimes]:
        """Tokenize a committed frame part, write the token part, and return its commit and times."""
        started = time.monotonic()
        with open_frame_part(frames_dir, frames) as part:
            drawn = draw_views(plan.views, part.index)
            tokens_VFhw, first, busy_s = self.tokens(part, drawn)
        ended = time.monotonic()
        times = TokenizeTimes(self._name, started, ended if first is None else first, ended, busy_s)
        starts = np.cumsum([0, *part.index["num_frames"].to_pylist()])
        rows = [
            PartView(views=views, tokens=[tokens_Fhw[a:b] for a, b in itertools.pairwise(starts)])
            for views, tokens_Fhw in zip(drawn, tokens_VFhw, strict=True)
        ]
        sample_ids = part.index["sample_id"].to_pylist()
        return write_token_part(tokens_dir, frames, sample_ids, rows, plan, self.tokenizer.gpu_model()), times

    def tokens(self, part: FramePart, drawn: Sequence[Sequence[View]]) -> tuple[np.ndarray, float | None, float]:
        """Tokenize all frames of the part under the views `drawn[view][sample]`.

        Returns the tokens, uint16 (V, F, h, w); when the first batch was tokenized, in monotonic seconds (None if the
        part has no frames); and for how many seconds the device was busy.
        """
        num_frames = len(part.jpegs)
        tokens = np.zeros((len(drawn) * num_frames, *self.tokenizer.grid), dtype=np.uint16)
        first, busy_s = None, 0.0
        # Threads prepare the next batch while the device works on the current one.
        depth = 2 * self.threads + self.batch_frames // (CHUNK_FRAMES * len(drawn))
        prepared = ahead(self._pool, self._prepare(part, drawn), depth)
        batches = rebatch(prepared, self.batch_frames)
        for positions, encoded in encode_batches(self.tokenizer, batches, self._device):
            tokens[positions] = encoded.ids_Nhw
            first, busy_s = first or time.monotonic(), busy_s + encoded.busy_s
        return tokens.reshape(len(drawn), num_frames, *self.tokenizer.grid), first, busy_s

    def _prepare(
        self, part: FramePart, drawn: Sequence[Sequence[View]]
    ) -> Iterator[Callable[[], tuple[np.ndarray, np.ndarray]]]:
        """Functions that each prepare a few frames: (positions in the flattened (V, F), frames (N, P, P, C))."""
        num_frames, input_px = len(part.jpegs), self.tokenizer.input_px
        backend = backend_for(len(drawn) * num_frames)
        sample_of = np.repeat(np.arange(part.index.num_rows), part.index["num_frames"].to_numpy())
        sizes = list(zip(part.index["height"].to_pylist(), part.index["width"].to_pylist(), strict=True))
        for first in range(0, num_frames, CHUNK_FRAMES):
            if first % READ_FRAMES == 0:
                read = part.jpegs[first : first + READ_FRAMES]
            chunk = np.arange(first, min(first + CHUNK_FRAMES, num_frames))
            jpegs = read[first % READ_FRAMES :][: len(chunk)]

            def prepare(
                chunk: np.ndarray = chunk, jpegs: Sequence[np.ndarray] = jpegs
            ) -> tuple[np.ndarray, np.ndarray]:
                frames = [decode_jpeg(jpeg, sizes[at]) for jpeg, at in zip(jpegs, sample_of[chunk], strict=True)]
                positions = (np.arange(len(drawn))[:, None] * num_frames + chunk).reshape(-1)
                prepared = [
                    halve(apply_view(frame_HWC, views[sample_of[i]], backend), input_px)
                    for views in drawn
                    for i, frame_HWC in zip(chunk, frames, strict=True)
                ]
                return positions, np.stack(prepared)

            yield prepare


def ahead(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], R]], depth: int) -> Iterator[R]:
    """Run `calls` in `pool` and yield their results in order; at most `depth` calls are ahead of the consumer."""
    running: deque[Future[R]] = deque()
    try:
        for call in calls:
            running.append(pool.submit(call))
            if len(running) >= depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def rebatch(blocks: Iterable[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup (positions, frames) blocks of any length into blocks of `size`, of which the last may be shorter."""
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for block in blocks:
        pending.append(block)
        count += len(block[0])
        if count >= size:
            positions, frames = (np.concatenate(arrays) for arrays in zip(*pending, strict=True))
            whole = count - count % size
            for start in range(0, whole, size):
                yield positions[start : start + size], frames[start : start + size]
            pending, count = [(positions[whole:], frames[whole:])], count - whole
    if count:
        positions, frames = (np.concatenate(arrays) for arrays in zip(*pending, strict=True))
        yield positions, frames
