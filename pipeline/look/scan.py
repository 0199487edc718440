"""`bevt scan`: check raw data and estimate the cost of tokenizing it, before a job that runs for days."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.console.progress import ProgressLine
from bevt_core.console.terminal import note
from bevt_core.dataset.frame_store import Rejected
from bevt_core.dataset.source_list import kinds_of
from bevt_core.known_sets import TOKEN_MAP_BYTES, TOKENIZER_GFLOP
from bevt_core.media.errors import MediaError
from bevt_core.media.frame_folders import check_frames
from bevt_core.media.stills import opened_picture
from bevt_core.media.video.decoders import check_decoder
from bevt_core.media.video.header import MediaHeader, pixel_warnings, read_video_header
from bevt_core.rng import rng_for
from bevt_core.storage.contained import readable_source
from bevt_core.storage.files import size_of, sizes_in, write_atomic
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.untrusted.isolation import DECODER_BYTES, ChildCrash, ChildTimeout, IsolatedFunction
from pipeline.job.decode_part import read_source
from pipeline.job.progress import unit_of
from pipeline.sources import SourceListing, check_found, list_sources
from pipeline.sources.archives.local_copy import local_source
from pipeline.sources.listing import write_parquet_list
from schemas.frames import PoolSpec, SourceItem
from schemas.recipes import TokenizeRecipe

STUB_BYTES = 9 * 1024  # failed downloads are smaller: the usual K400 mirror has hundreds of files of 0-9 KB
UNUSABLE_SCHEMA = pa.schema([("source", pa.string()), ("num_bytes", pa.int64()), ("reason", pa.string())])
# of the DALL-E encoder's float32 convolutions
GPU_TFLOPS = 30.0  # assumed for a data-centre GPU
CPU_TFLOPS = 0.055  # of one CPU core: 1.05 frames per CPU second, measured by benchmarks/dalle_throughput.py


@dataclass(frozen=True)
class Scanned:
    """The scan's result for one source."""

    num_bytes: int  # -1 if missing
    header: MediaHeader | None
    reason: str | None  # why it cannot be used; None: usable


def scan(
    recipe: TokenizeRecipe,
    *,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
    write: str | AnyPath | None = None,
    write_unusable: str | AnyPath | None = None,
    sample: int = 8,
    threads: int = 4,
) -> dict[str, Any]:
    """Check the size and header of every source of `recipe`, and decode `sample` of them to estimate the cost.

    From an object store, only the byte ranges of the headers are read; the sampled sources are fetched whole. `write`
    is the path of a Parquet list of the usable sources, for `bevt tokenize --list`, and `write_unusable` that of a list
    of the others, with their sizes in bytes (-1: missing) and reasons. Returns counts and estimates. Raises UserError
    for bad input, StorageError if an object store fails.
    """
    check_decoder(recipe.decoder)
    root = as_path(recipe.root)
    listing = list_sources(recipe.dataset, root, recipe.split, list_file, allow_outside)
    check_found(listing, root, list_file)
    if all(item.label is None for item in listing.items):
        note(
            f"{root}: no file has a label, which fine-tuning and tests need: expected a folder per class, or a list "
            "with labels. If this is the folder of one class or one split, give the folder above it"
        )
    for item in listing.items:
        if item.source not in listing.packed:
            readable_source(root, item.source, allow_outside)
    seen = _scan_all(root, listing, allow_outside, recipe.decode_timeout_s, threads)
    usable = [item for item, result in zip(listing.items, seen, strict=True) if result.reason is None]
    headers = [result.header for result in seen if result.header is not None and result.reason is None]
    if write is not None:
        write_parquet_list(as_path(write), SourceListing(usable, listing.classes))
        note(f"{write}: a list of {len(usable)} usable sources")
    if write_unusable is not None:
        _write_unusable(as_path(write_unusable), listing.items, seen)
        note(f"{write_unusable}: a list of {len(listing.items) - len(usable)} sources that cannot be used")
    stubs = [
        item.source
        for item, result in zip(listing.items, seen, strict=True)
        if item.kind == "video" and 0 <= result.num_bytes < STUB_BYTES
    ]
    reasons = Counter(result.reason for result in seen if result.reason is not None)
    missing = reasons.pop("missing", 0)
    seconds = np.array([g.seconds for g in headers if g.seconds is not None])
    return {
        "sources": len(listing.items),
        "found": len(listing.items) - missing,
        "missing": missing,
        "stubs": len(stubs),
        "unreadable": dict(sorted(reasons.items())),
        "usable": len(usable),
        "ignored": listing.ignored,
        "warnings": [*listing.warnings, *pixel_warnings(headers)],
        "bytes": sum(max(0, result.num_bytes) for result in seen),
        "codecs": _counts(f"{g.container}/{g.codec}" for g in headers),
        "sizes": _counts(f"{g.width}x{g.height}" for g in headers),
        "seconds": _quantiles(seconds),
        "hours": float(seconds.sum() / 3600),
        "classes": len(listing.classes),
        "class_counts": _class_counts(usable, listing.classes),
        "examples": {
            "missing": [
                item.source for item, result in zip(listing.items, seen, strict=True) if result.reason == "missing"
            ][:5],
            "stubs": stubs[:5],
            "unreadable": [
                f"{item.source}: {result.reason}"
                for item, result in zip(listing.items, seen, strict=True)
                if result.reason not in (None, "missing")
            ][:5],
        },
        "estimate": _estimate(recipe, root, replace(listing, items=usable), allow_outside, headers, sample),
    }


def read_header(path: AnyPath, kind: str) -> MediaHeader:
    """Read the header of a video, an image, or a folder's first frame. Raises MediaError, StorageError."""
    if kind == "folder":
        frames = check_frames(path)
        first = read_header(path / frames[0], "image")
        return MediaHeader("folder", first.codec, first.width, first.height, None, len(frames))
    if kind == "video":
        return read_video_header(path)
    with opened_picture(path) as image:
        return MediaHeader("image", str(image.format).lower(), image.width, image.height, None, 1)


def _write_unusable(path: AnyPath, items: Sequence[SourceItem], seen: Sequence[Scanned]) -> None:
    """Write the sources that cannot be used as Parquet: `source`, `num_bytes` and `reason`."""
    rows = [
        (item.source, result.num_bytes, result.reason)
        for item, result in zip(items, seen, strict=True)
        if result.reason is not None
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    written = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=UNUSABLE_SCHEMA), written)
    write_atomic(path, written.getvalue().to_pybytes())


def _scan_all(
    root: AnyPath, listing: SourceListing, allow_outside: bool, limit_s: float, threads: int
) -> list[Scanned]:
    """Check all sources in child processes, as the job decodes them: a header can crash a demuxer too."""
    limit_s += storage_of(root).retry_s
    local = threading.local()
    children: list[IsolatedFunction] = []

    def one(item: SourceItem) -> Scanned:
        if not hasattr(local, "read_header"):
            local.read_header = IsolatedFunction("pipeline.look.scan:read_header", DECODER_BYTES)
            children.append(local.read_header)
        files = listing.packed.get(item.source, ())
        if not files:  # an object is not fetched for its header
            return header_of(root / item.source, item)
        try:
            with local_source(root, item.source, files, allow_outside) as folder:
                return header_of(folder / item.source, item)
        except MediaError as error:
            return Scanned(sum(file.num_bytes for file in files), None, error.reason)

    def header_of(path: AnyPath, item: SourceItem) -> Scanned:
        try:
            num_bytes, kind = size_of(path), str(item.kind)
            if num_bytes < 0 and kind == "video" and path.is_dir():
                num_bytes, kind = sum(sizes_in(path).values()), "folder"
            if num_bytes < 0 and not path.is_dir():
                return Scanned(-1, None, "missing")
        except PermissionError:
            return Scanned(-1, None, "decoder-error")  # the same reason as in a job
        if num_bytes == 0 and kind != "folder":
            return Scanned(0, None, "empty-file")
        try:
            return Scanned(num_bytes, local.read_header(path, kind, limit_s=limit_s), None)
        except MediaError as error:
            return Scanned(num_bytes, None, error.reason)
        except ChildTimeout:
            return Scanned(num_bytes, None, "time-out")
        except ChildCrash:
            return Scanned(num_bytes, None, "crash")
        except MemoryError:
            return Scanned(num_bytes, None, "out-of-memory")

    items = listing.items
    with (
        ThreadPoolExecutor(threads) as pool,
        ProgressLine("scan", len(items), unit=unit_of(kinds_of(items))) as progress,
    ):
        try:
            seen = []
            for result in pool.map(one, items):
                seen.append(result)
                progress.add(1)
            return seen
        finally:
            for child in children:
                child.close()


def _estimate(
    recipe: TokenizeRecipe,
    root: AnyPath,
    listing: SourceListing,
    allow_outside: bool,
    headers: Sequence[MediaHeader],
    sample: int,
) -> dict[str, Any]:
    """Disk and time of the whole job, from the headers and from `sample` decoded sources.

    The tokenizer's time is that of DALL-E's encoder, on CPUs alone and on GPUs.
    """
    usable = listing.items
    frames = sum(pool_size(recipe.pool, g.frames or 1) for g in headers)
    chosen = rng_for("scan", len(usable)).permutation(len(usable))[:sample]
    decoded, num_bytes, spent_s = 0, 0, 0.0
    for turn, i in enumerate([*chosen[:1], *chosen]):
        source = usable[i].source
        with local_source(root, source, listing.packed.get(source, ()), allow_outside) as local_root:
            began = time.perf_counter()
            outcome = read_source(
                local_root, usable[i], recipe.pool, recipe.seed, recipe.decode_timeout_s, 1, recipe.decoder
            )
            took_s = time.perf_counter() - began
        if turn == 0:  # warm-up, which starts the child; the next turn decodes the same source
            continue
        if not isinstance(outcome, Rejected):
            spent_s += took_s
            decoded += sum(len(stored.jpegs) for stored in outcome)
            num_bytes += sum(len(jpeg) for stored in outcome for jpeg in stored.jpegs)
    if not decoded:
        return {}
    views = recipe.views.num_views
    tokenizer_tflop = frames * views * TOKENIZER_GFLOP / 1e3
    return {
        "frames": frames,
        "frame_bytes": round(num_bytes / decoded),
        "frames_gb": frames * num_bytes / decoded / 1e9,
        "tokens_gb": frames * views * TOKEN_MAP_BYTES / 1e9,
        "decode_cpu_hours": frames * spent_s / decoded / 3600,
        "tokenizer_cpu_hours": tokenizer_tflop / CPU_TFLOPS / 3600,
        "assumed_cpu_tflops": CPU_TFLOPS,
        "tokenizer_gpu_hours": tokenizer_tflop / GPU_TFLOPS / 3600,
        "assumed_gpu_tflops": GPU_TFLOPS,
    }


def pool_size(pool: PoolSpec, num_frames: int) -> int:
    """The number of frames that a pool keeps of a source with `num_frames`, on average over random phases."""
    frames = max(1, num_frames // pool.stride)
    return min(pool.max_frames, frames) if pool.long == "thin" else frames


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common(12))


def _quantiles(seconds: np.ndarray) -> dict[str, float]:
    if not len(seconds):
        return {}
    quantiles = np.quantile(seconds, [0, 0.05, 0.5, 0.95, 1])
    names = ("min", "p5", "median", "p95", "max")
    return {name: round(float(value), 3) for name, value in zip(names, quantiles, strict=True)}


def _class_counts(items: Sequence[SourceItem], classes: Sequence[str]) -> dict[str, Any]:
    if not classes:
        return {}
    counts = np.bincount([item.label for item in items if item.label is not None], minlength=len(classes))
    order = np.argsort(counts, kind="stable").tolist()
    return {
        "empty": [classes[i] for i in np.flatnonzero(counts == 0).tolist()],
        "smallest": {classes[i]: int(counts[i]) for i in order[:5]},
        "largest": {classes[i]: int(counts[i]) for i in order[::-1][:5]},
        "unlabelled": sum(item.label is None for item in items),
    }
