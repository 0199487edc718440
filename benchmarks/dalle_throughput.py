"""Frames per second of a tokenizer by dtype, and the share of ids that equal float32's.

`python benchmarks/dalle_throughput.py --device cuda`: the DALL-E encoder at its published size with random weights, at
112 px; `--tokenizer dalle` takes stored weights instead, which the share of equal ids depends on. Every dtype is timed
in every round. `host`: batches of two passes come from the CPU and ids go back to it, as in `bevt tokenize`. `device`:
frames are on the device and ids stay there, as in the training step. `--package` also times `dall_e.Encoder`. Seconds
are CPU time of the process where there is no GPU, since machines are shared.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dall_e import Encoder, map_pixels
from torch import Tensor
from torch.nn import functional as F

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.base import Tokenizer, encode_batches
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.networks import build_encoder, to_package_state
from bevt_core.tokenizers.dvae.tokenizer import DvaeTokenizer
from bevt_core.tokenizers.dvae.training import DVAE_PRESETS
from bevt_core.tokenizers.inspection import DTYPES_LEFT_OUT
from bevt_core.tokenizers.precision import DTYPES
from schemas.text.json_text import json_text

INPUT_PX = 112
SIZES = {name: sizes for name, sizes in DVAE_PRESETS.items() if isinstance(sizes, DvaeSizes)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated; default: all")
    parser.add_argument("--tokenizer", help="a name or folder (default: random weights)")
    parser.add_argument("--size", default="paper", choices=SIZES, help="of the random weights")
    parser.add_argument("--pass-frames", type=int, help="frames per pass (default: the device's)")
    parser.add_argument("--passes", type=int, help="passes per round (default: 8 on a GPU, 1 on a CPU)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--package", action="store_true", help="time dall_e.Encoder as well")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    left_out = DTYPES_LEFT_OUT[options.device]
    for dtype in options.dtype or []:
        if dtype in left_out:
            parser.error(f"--dtype {dtype} --device {options.device}: {left_out[dtype]}")
    if options.package and (options.tokenizer or options.size != "paper"):
        parser.error("--package has random weights of the published size: leave out --tokenizer and --size")
    options.passes = options.passes or (8 if options.device == "cuda" else 1)
    dtypes = ["float32", *(d for d in options.dtype or DTYPES if d != "float32" and d not in left_out)]
    load = stored(options) if options.tokenizer else random_weights(options)
    results = measure(load, dtypes, options)
    for name, row in results["runs"].items():
        share = f"{row['ids_equal']:.4%} of ids equal"
        print(f"{name}: {row['frames_per_s']:.2f} frames/s ({row['slowest']:.2f} to {row['fastest']:.2f}), {share}")
    if options.out:
        options.out.write_text(json_text(results, indent=1))


def measure(load: Callable[[str], Tokenizer], dtypes: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Of every dtype, in alternating rounds: frames per second (median and range) and the share of equal ids."""
    tokenizers = {dtype: load(dtype) for dtype in dtypes}
    first = tokenizers["float32"]
    frames_NPPC = pictures(options.passes * first.pass_frames, first.input_px)
    on_device_NPPC = frames_NPPC.to(options.device)
    runs: dict[str, Callable[[], Tensor]] = {}
    for dtype, tokenizer in tokenizers.items():
        runs[f"{dtype} host"] = lambda t=tokenizer: from_host(t, frames_NPPC)
        if options.device == "cuda":
            runs[f"{dtype} device"] = lambda t=tokenizer: t.encode(on_device_NPPC)
    if options.package:
        runs["dall_e.Encoder float32"] = package(to_package_state(encoder_of(options)), options, on_device_NPPC)
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    of_each = f"{len(frames_NPPC)} frames in passes of {first.pass_frames}"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {of_each}", flush=True)
    ids, seconds = {}, {}
    for run, work in runs.items():  # warms up
        ids[run], _ = timed(work, clock)
        seconds[run] = []
    for _ in range(options.rounds):
        for run, work in runs.items():
            seconds[run].append(timed(work, clock)[1])
    reference = ids["float32 host"]
    rows = {
        run: {
            "frames_per_s": len(frames_NPPC) / statistics.median(taken),
            "slowest": len(frames_NPPC) / max(taken),
            "fastest": len(frames_NPPC) / min(taken),
            "ids_equal": float((ids[run] == reference).double().mean()),
        }
        for run, taken in seconds.items()
    }
    return {"device": name, "torch": torch.__version__, "pass_frames": first.pass_frames, "runs": rows}


def timed(run: Callable[[], Tensor], clock: Callable[[], float]) -> tuple[Tensor, float]:
    begun = clock()
    ids_Nhw = run()
    if ids_Nhw.device.type == "cuda":
        torch.cuda.synchronize()
    taken = clock() - begun
    return ids_Nhw.cpu(), taken


def from_host(tokenizer: Tokenizer, frames_NPPC: Tensor) -> Tensor:
    size = 2 * tokenizer.pass_frames
    batches = ((start, chunk.numpy()) for start, chunk in enumerate(frames_NPPC.split(size)))
    parts = [encoded.ids_Nhw for _, encoded in encode_batches(tokenizer, batches, threading.Lock())]
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def pictures(count: int, size_px: int) -> Tensor:
    """Random pictures uint8 [N, P, P, 3] with much coarse and little fine structure, as photographs have."""
    generator = torch.Generator().manual_seed(0)
    total = torch.full((count, 3, size_px, size_px), 0.5)
    for cells in (2, 7, 28, 112):
        noise = torch.randn((count, 3, cells, cells), generator=generator)
        total += 0.4 / cells**0.5 * F.interpolate(noise, size=(size_px, size_px), mode="bilinear")
    return (total.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def stored(options: argparse.Namespace) -> Callable[[str], Tokenizer]:
    return lambda dtype: load_tokenizer(options.tokenizer, options.device, dtype, options.pass_frames)


def random_weights(options: argparse.Namespace) -> Callable[[str], Tokenizer]:
    card = StoredTokenizer(
        kind="dalle",
        sizes=SIZES[options.size],
        input_px=INPUT_PX,
        encoder_sha256="",
        decoder_sha256=None,
        origin={},
    )
    return lambda dtype: DvaeTokenizer(
        encoder_of(options),
        None,
        name="dalle",
        input_px=INPUT_PX,
        weights_sha256="",
        device=torch.device(options.device),
        dtype=dtype,
        pass_frames=options.pass_frames or card.pass_frames(options.device),
    )


def encoder_of(options: argparse.Namespace) -> torch.nn.Sequential:
    """The same random weights at every call."""
    torch.manual_seed(0)
    return build_encoder(SIZES[options.size])


def package(state: dict[str, Tensor], options: argparse.Namespace, frames_NPPC: Tensor) -> Callable[[], Tensor]:
    """The package's own encoder with these weights, 16 frames at a time, as its authors call it."""
    sizes = SIZES[options.size]
    encoder = Encoder(n_hid=sizes.n_hid, n_blk_per_group=sizes.n_blk_per_group, vocab_size=sizes.vocab_size)
    encoder.load_state_dict(state)
    encoder = encoder.eval().to(options.device)

    def run() -> Tensor:
        with torch.inference_mode():
            units = (chunk.permute(0, 3, 1, 2).float() / 255 for chunk in frames_NPPC.split(16))
            return torch.cat([encoder(map_pixels(unit_NCHW)).argmax(dim=1) for unit_NCHW in units])

    return run


if __name__ == "__main__":
    main()
