"""`bevt tokenizer info` and `compare`: a tokenizer's description, reconstruction quality, and what changes its ids.

Legend: N frames, H W pixels, C channels, P the tokenizer's input side, h x w its grid.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bevt_core.console.readable import percent
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import find_tokenizer, load_tokenizer
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.description import CARD, DECODER, ENCODER, read_description
from bevt_core.tokenizers.precision import DTYPES
from bevt_core.tokenizers.quality import measure, measure_still
from bevt_core.tokenizers.weights_files import read_state
from bevt_core.views.replay import decode_jpeg, encode_jpeg, halve
from schemas.errors import UserError

VIEW_SHARE = 224 / 256  # side of the centre crop, as a share of the short side, as in BEVT
QUALITIES = (95, 90, 75, 50)  # JPEG qualities at which stored frames are encoded again
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
DTYPES_LEFT_OUT: dict[str, dict[str, str]] = {
    "cpu": {"tf32": "needs a GPU", "float16": "tried on GPUs only"},
    "cuda": {},
}  # kind of device -> dtype -> reason
TIMED_PASSES = 2

Scale = Callable[[np.ndarray, int], np.ndarray]  # a square frame, P -> the frame scaled to P x P


def tokenizer_info(path_or_name: str, frames_dir: AnyPath | None, max_frames: int) -> dict[str, Any]:
    """Describe a stored tokenizer; with a frame store, also measure how well it reconstructs its frames (`measure`).

    Uses up to `max_frames` frames, evenly spread over the store, each cropped to its centre as in view 0. Raises
    UserError for a missing tokenizer or frame store, and for damaged weights.
    """
    folder = find_tokenizer(path_or_name)
    stored = read_description(folder)
    states = [read_state(folder, ENCODER, stored.encoder_sha256)]
    if stored.decoder_sha256 is not None:
        states.append(read_state(folder, DECODER, stored.decoder_sha256))
    model_card = folder / CARD
    info: dict[str, Any] = {
        "tokenizer": str(folder),
        "kind": stored.kind,
        "vocab_size": stored.sizes.vocab_size,
        "input_px": stored.input_px,
        "stride": stored.sizes.stride,
        "grid": list(stored.grid),
        "weights_sha256": stored.encoder_sha256,
        "decoder_sha256": stored.decoder_sha256,
        "parameters": sum(value.numel() for state in states for value in state.values()),
        "bytes": sum((folder / name).stat().st_size for name in (ENCODER, DECODER) if (folder / name).is_file()),
        "sizes": stored.sizes.model_dump(mode="json"),
        "origin": stored.origin,
        "card": str(model_card) if model_card.is_file() else None,
    }
    if frames_dir is not None:
        tokenizer = load_tokenizer(folder, _device())
        frames = sampled_frames(FrameStore(frames_dir), max_frames)
        info |= {"frames": len(frames), **measure(tokenizer, prepared(frames, tokenizer.input_px, halve))}
    return info


def compare_tokenizers(names: Sequence[str], frames_dir: AnyPath, max_frames: int) -> dict[str, Any]:
    """Compare two or more tokenizers on the same stored frames (as in `tokenizer_info`), each at its own input size.

    The first two are `a` and `b`, the rest `others`. For each: `measure`; `frames_per_s` by dtype; and the shares of
    ids that do not change with a dtype other than float32, when the stored frame is encoded as JPEG again, or the view
    scaled to the input size by another filter than Lanczos; and how often a region that does not change from one stored
    frame to the next keeps its id (`measure_still`). `ids_agree_by_pair` has the share of equal ids of every pair, None
    if vocabulary or grid differ; `ids_agree` is that of the first pair. `dtypes_left_out` lists the dtypes that were
    not measured on this kind of device, with the reason.
    """
    store = FrameStore(frames_dir)
    frames, pairs = sampled_frames(store, max_frames), sampled_pairs(store, max_frames // 2)
    device = _device()
    reports, ids = zip(*(_report(name, load_tokenizer(name, device), frames, pairs) for name in names), strict=True)
    agree = [
        {
            "one": reports[one]["tokenizer"],
            "other": reports[other]["tokenizer"],
            "share": _agreement(ids[one], ids[other])
            if _vocabulary(reports[one]) == _vocabulary(reports[other])
            else None,
        }
        for one, other in itertools.combinations(range(len(names)), 2)
    ]
    first, second, *others = reports
    return {
        "frames": len(frames),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "dtypes_left_out": DTYPES_LEFT_OUT[device.type],
        "ids_agree": agree[0]["share"],
        "a": first,
        "b": second,
        "others": others,
        "ids_agree_by_pair": agree,
    }


def _vocabulary(report: dict[str, Any]) -> tuple[int, list[int]]:
    """The vocabulary size and the grid of a tokenizer: ids are compared only if both are equal."""
    return report["vocab_size"], report["grid"]


def comparison_table(compared: dict[str, Any]) -> dict[str, Any]:
    """The result of `compare_tokenizers` for the terminal: a row per tokenizer if there are more than two."""
    if not compared["others"]:
        return {key: value for key, value in compared.items() if key not in ("others", "ids_agree_by_pair")}
    rows = [
        {
            "tokenizer": report["tokenizer"],
            "codes": report["vocab_size"],
            "grid": "x".join(map(str, report["grid"])),
            "psnr_db": report["psnr_db"],
            "codes used": percent(report["codebook_used_share"]),
            "entropy_bits": report["entropy_bits"],
            "codes_per_s": report["codes_per_s"]["float32"],
            "kept in bf16": percent(report["ids_kept_in_dtype"]["bfloat16"]),
            "after JPEG 75": percent(report["ids_kept_after_jpeg"][75]),
            "where still": "-" if report["ids_kept_when_still"] is None else percent(report["ids_kept_when_still"]),
        }
        for report in (compared["a"], compared["b"], *compared["others"])
    ]
    return {
        "frames": compared["frames"],
        "device": compared["device"],
        "compared": rows,
        "equal ids": [pair for pair in compared["ids_agree_by_pair"] if pair["share"] is not None],
    }


def sampled_frames(store: FrameStore, count: int) -> list[np.ndarray]:
    """Up to `count` frames of a store, evenly spread over it, decoded: RGB uint8 (H, W, C)."""
    parts, starts, lengths = (store.samples[name].to_numpy() for name in ("part", "frame_start", "num_frames"))
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends) or not ends[-1]:
        raise UserError(f"{store.path}: the frame store has no frames; all sources were rejected, or none were found")
    wanted = np.unique(np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).round().astype(np.int64))
    frames = []
    for position in wanted:
        row = int(np.searchsorted(ends, position, side="right"))
        first = int(starts[row] + position - (ends[row] - lengths[row]))
        frames += store.read_frames(int(parts[row]), first, 1)
    return frames


def sampled_pairs(store: FrameStore, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Up to `count` pairs of consecutive stored frames, from the middles of samples spread over the store."""
    index = store.index.select(["part", "frame_start", "num_frames"])
    parts, starts, lengths = (column.to_numpy() for column in index.columns)
    with_pairs = np.flatnonzero(lengths > 1)
    chosen = np.unique(np.linspace(0, len(with_pairs) - 1, min(count, len(with_pairs))).round().astype(np.int64))
    pairs = []
    for row in with_pairs[chosen].tolist():
        first, second = store.read_frames(int(parts[row]), int(starts[row] + lengths[row] // 2 - 1), 2)
        pairs.append((first, second))
    return pairs


def prepared(frames: Sequence[np.ndarray], input_px: int, scale: Scale) -> Tensor:
    """The centre squares of frames at a tokenizer's input size: uint8 (N, P, P, C)."""
    return torch.from_numpy(np.stack([scale(centre_square(frame), input_px) for frame in frames]))


def centre_square(frame_HWC: np.ndarray) -> np.ndarray:
    """The middle of a frame, VIEW_SHARE of its short side wide."""
    height, width, _ = frame_HWC.shape
    side = round(VIEW_SHARE * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    return frame_HWC[top : top + side, left : left + side]


def _report(
    name: str, tokenizer: Tokenizer, frames: Sequence[np.ndarray], pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, Any], Tensor]:
    """The report on one tokenizer, and its ids `[N, h, w]`."""
    inputs_NPPC = prepared(frames, tokenizer.input_px, halve)
    ids_Nhw = tokenizer.encode(inputs_NPPC)

    def kept(changed: Sequence[np.ndarray], scale: Scale = halve) -> float:
        return _agreement(ids_Nhw, tokenizer.encode(prepared(changed, tokenizer.input_px, scale)))

    speeds, same_in = {}, {}
    timed = torch.arange(TIMED_PASSES * tokenizer.pass_frames) % len(frames)  # whole passes
    for dtype in [dtype for dtype in DTYPES if dtype not in DTYPES_LEFT_OUT[tokenizer.device.type]]:
        speeds[dtype], in_dtype_Nhw = _timed(load_tokenizer(name, tokenizer.device, dtype), inputs_NPPC[timed])
        same_in[dtype] = _agreement(ids_Nhw.cpu()[timed], in_dtype_Nhw)
    rows, columns = tokenizer.grid
    measured = measure(tokenizer, inputs_NPPC)
    pair_frames = [frame for pair in pairs for frame in pair]
    pairs_M2PPC = prepared(pair_frames, tokenizer.input_px, halve).unflatten(0, (-1, 2)) if pairs else torch.empty(0, 2)
    report = {
        "tokenizer": name,
        "weights_sha256": tokenizer.weights_sha256,
        "vocab_size": tokenizer.vocab_size,
        "grid": list(tokenizer.grid),
        **measured,
        "entropy_bits": math.log2(measured["perplexity"] or 1),
        "frames_per_s": speeds,
        "codes_per_s": {dtype: rows * columns * speed for dtype, speed in speeds.items()},
        "ids_kept_in_dtype": same_in,
        "ids_kept_after_jpeg": {q: kept([decode_jpeg(encode_jpeg(f, q)) for f in frames]) for q in QUALITIES},
        **measure_still(tokenizer, pairs_M2PPC)._asdict(),
        "ids_kept_with_filter": {filter_: kept(frames, _scale_with(filter_)) for filter_ in FILTERS},
    }
    return report, ids_Nhw


def _timed(tokenizer: Tokenizer, frames_NPPC: Tensor) -> tuple[float, Tensor]:
    """Frames per second, transfers included, after one warm-up pass; and the ids."""
    tokenizer.encode(frames_NPPC[: tokenizer.pass_frames]).cpu()
    begun = time.perf_counter()
    ids_Nhw = tokenizer.encode(frames_NPPC).cpu()
    return len(frames_NPPC) / (time.perf_counter() - begun), ids_Nhw


def _scale_with(name: str) -> Scale:
    def scale(frame_HWC: np.ndarray, input_px: int) -> np.ndarray:
        return np.asarray(Image.fromarray(frame_HWC).resize((input_px, input_px), FILTERS[name]))

    return scale


def _agreement(a_Nhw: Tensor, b_Nhw: Tensor) -> float:
    return float((a_Nhw.cpu() == b_Nhw.cpu()).double().mean())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
