"""Benchmarks of the encoder against torchvision's, and of a pretraining step against the original code's.

Each pair runs alternately in the same process on the same inputs; times are medians.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import dall_e
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bevt_core.masking import hidden_positions, stretch_mask
from bevt_core.models.bevt import Bevt, StreamBatch
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier, check_size
from bevt_core.models.counting import flops
from bevt_core.rng import rng_for
from bevt_core.tokenizers.base import to_unit
from bevt_core.tokenizers.dvae.pixels import map_pixels
from bevt_core.views.replay import apply_view, decode_jpeg, encode_jpeg, halve, random_view
from bevt_core.weights.other_projects import classifier_from_torchvision
from bevt_core.weights.surgery import swin_sizes
from schemas.views import View, ViewDistribution

MASKED_SHARE = {"video": 0.374, "image": 0.497}  # share of the token positions: means of the original masks
VOCAB_SIZE = 8192


def bench_encoder(
    *, size: str = "tiny", batch_size: int = 2, frames: int = 16, size_px: int = 224, repeats: int = 5
) -> dict[str, float]:
    """Compare forward + backward of Video Swin with torchvision's on the CPU, in fp32, with the same weights.

    `memory_ratio` compares the peak memory of a step, without weights and inputs.
    """
    from torchvision.models import video

    check_size(size, ("tiny", "small", "base"))
    reference = getattr(video, f"swin3d_{size[0]}")(weights=None).eval()
    state, _ = classifier_from_torchvision(reference.state_dict())
    model = build_classifier(**swin_sizes(state, "stem.", "encoder."), num_classes=len(state["fc.bias"])).eval()
    model.load_state_dict(state)

    clip_BCTHW = torch.randn(batch_size, 3, frames, size_px, size_px)
    with torch.no_grad():
        max_abs_diff = (model(clip_BCTHW) - reference(clip_BCTHW)).abs().max().item()
    ours_s, reference_s = alternate([_step(model, clip_BCTHW), _step(reference, clip_BCTHW)], repeats)
    ours_bytes, reference_bytes = (peak_bytes(_step(m, clip_BCTHW)) for m in (model, reference))
    return {
        "seconds": ours_s,
        "torchvision_seconds": reference_s,
        "speedup_vs_torchvision": reference_s / ours_s,
        "memory_ratio": ours_bytes / reference_bytes,
        "peak_bytes": ours_bytes,
        "max_abs_diff": max_abs_diff,
    }


def bench_step(
    *,
    size: str = "base",
    clips: int = 8,
    images: int = 64,
    frames: int = 16,
    size_px: int = 224,
    repeats: int = 5,
    device: str = "cpu",
) -> dict[str, float]:
    """Compare a joint step on stored tokens with the original's: tokenizer inside the step, LM head at every position.

    Both include their data: JPEGs are decoded and cropped on the calling thread. `flops_ratio` is counted, the rest is
    measured. `tokenizer_share`, `data_share` and `model_share` are shares of the original step; `speedup_of_possible`
    is the speed-up divided by the one that removing the tokenizer alone would give.
    """
    check_size(size)
    sizes = SWIN_SIZES[size]
    model = build_bevt(**sizes, vocab_size=VOCAB_SIZE).to(device)
    tokenizer = dall_e.Encoder().to(device).eval().requires_grad_(False)
    _, patch_h, _ = sizes.get("patch", (2, 4, 4))
    grid = size_px // (patch_h * 2 ** (len(sizes["depths"]) - 2))
    batch = {
        "video": _random_batch("video", clips, frames, size_px, grid, device),
        "image": _random_batch("image", images, 1, size_px, grid, device),
    }
    jpegs = _random_jpegs(clips * frames + images, size_px)
    view = _random_view(size_px)
    clock = _PhaseClock(device)

    def data(*, token_px: int | None) -> Tensor:
        crops = [apply_view(decode_jpeg(jpeg), view, "compiled") for jpeg in jpegs]
        frames_NHWC = np.stack(crops if token_px is None else [halve(crop, token_px) for crop in crops])
        return torch.from_numpy(frames_NHWC).to(device)

    def ours() -> None:
        data(token_px=None)  # read and moved to the device as in a run; the step itself uses `batch`
        model.zero_grad(set_to_none=False)
        losses = model(batch)
        sum(loss.loss_sum / loss.num_masked for loss in losses.values()).backward()
        synchronize(device)

    def original() -> None:
        clock.start()
        frames_NHWC = data(token_px=8 * grid)
        clock.ended("data")
        with torch.no_grad():
            tokens_NHW = tokenizer(map_pixels(to_unit(frames_NHWC))).argmax(dim=1)
        tokens = dict(zip(batch, tokens_NHW.split([clips * frames, images]), strict=True))
        clock.ended("tokenizer")
        model.zero_grad(set_to_none=False)
        losses = []
        for stream, (clip_BCTHW, _, mask_BTHW, *_) in batch.items():
            logits_BNV = model.lm_head(model.features(clip_BCTHW, mask_BTHW, stream))  # type: ignore[arg-type]
            hidden_BN = stretch_mask(mask_BTHW, (clip_BCTHW.shape[2], grid, grid)).flatten(1)
            tokens_BN = tokens[stream].reshape(len(clip_BCTHW), -1)
            losses.append(F.cross_entropy(logits_BNV[hidden_BN], tokens_BN[hidden_BN]))
        sum(losses).backward()  # type: ignore[union-attr]
        clock.ended("model")

    ours_s, original_s = alternate([ours, original], repeats)
    shares = clock.shares()
    possible = 1 / (1 - shares["tokenizer"])
    speedup = original_s / ours_s
    return {
        **step_flops(size=size, clips=clips, images=images, frames=frames, size_px=size_px),
        "seconds": ours_s,
        "original_seconds": original_s,
        **{f"{phase}_share": share for phase, share in shares.items()},
        "speedup": speedup,
        "speedup_of_possible": speedup / possible,
    }


def synchronize(device: str) -> None:
    """Wait until the device has finished its queued work."""
    if device != "cpu":
        torch.accelerator.synchronize()


class _PhaseClock:
    """Times of a step's phases: medians over all steps but the first, which warms up."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, defaultdict[str, list[float]](list)

    def start(self) -> None:
        synchronize(self.device)
        self.last = time.perf_counter()

    def ended(self, phase: str) -> None:
        before = self.last
        self.start()
        self.seconds[phase].append(self.last - before)

    def shares(self) -> dict[str, float]:
        medians = {phase: statistics.median(seconds[1:]) for phase, seconds in self.seconds.items()}
        return {phase: seconds / sum(medians.values()) for phase, seconds in medians.items()}


def _random_jpegs(count: int, size_px: int) -> list[bytes]:
    """Make smooth pictures as large as the stored frames for crops of `size_px`."""
    height, width = size_px * 8 // 7, size_px * 3 // 2
    coarse = rng_for("bench step").integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)
    pictures = (np.asarray(Image.fromarray(picture).resize((width, height))) for picture in coarse)
    return [encode_jpeg(picture, 90) for picture in pictures]


def _random_view(size_px: int) -> View:
    low, high = size_px * 8 // 7, size_px * 10 // 7
    spec = ViewDistribution(crop_px=size_px, short_side_min_px=low, short_side_max_px=high, flip_share=0.5, jitter=0.0)
    return random_view(spec, rng_for("bench step"), low, size_px * 3 // 2)


def step_flops(
    *, size: str = "base", clips: int = 8, images: int = 64, frames: int = 16, size_px: int = 224
) -> dict[str, float]:
    """Count the operations of a joint step with stored tokens, and of the original's step on the same batch.

    torch counts them on the meta device, two per multiply-add, for one clip and one image; the counts are scaled up.
    The default mix, 8 clips : 64 images, is the original's (swin_base_patch244_window877_bevt_in1k_k400.py).
    """
    with torch.device("meta"):
        model = build_bevt(**SWIN_SIZES[size], vocab_size=VOCAB_SIZE)
        tokenizer = dall_e.Encoder().requires_grad_(False)
        frame_BCHW = torch.zeros(1, 3, size_px // 2, size_px // 2)
    tokenizer_flops = flops(lambda: tokenizer(frame_BCHW))
    ours = original = 0.0
    for stream, count, num_frames in (("video", clips, frames), ("image", images, 1)):
        features_flops, head_flops = _stream_flops(model, stream, num_frames, size_px)
        ours += count * (features_flops + MASKED_SHARE[stream] * head_flops)
        original += count * (features_flops + head_flops + num_frames * tokenizer_flops)
    return {"flops": ours, "original_flops": original, "flops_ratio": ours / original}


def _random_batch(stream: str, batch_size: int, frames: int, size_px: int, grid: int, device: str) -> StreamBatch:
    tubelets = {"video": frames // 2, "image": 1}[stream]
    mask_BTHW = torch.rand(batch_size, tubelets, grid, grid, device=device) < MASKED_SHARE[stream]
    return StreamBatch(
        clip_BCTHW=torch.randn(batch_size, 3, frames, size_px, size_px, device=device),
        tokens_BTHW=torch.randint(VOCAB_SIZE, (batch_size, frames, grid, grid), device=device),
        mask_BTHW=mask_BTHW,
        hidden_M=hidden_positions(mask_BTHW, frames),
    )


def _stream_flops(model: Bevt, stream: Any, frames: int, size_px: int) -> tuple[int, int]:
    """Count the operations of forward + backward for one sample: without the LM head, and for it at all positions."""
    clip_BCTHW = torch.zeros(1, 3, frames, size_px, size_px, device="meta")
    outputs: list[Tensor] = []

    def features_step() -> None:
        outputs.append(model.features(clip_BCTHW, None, stream))
        outputs[0].sum().backward()

    features_flops = flops(features_step)
    hidden_BND = torch.zeros_like(outputs[0], requires_grad=True)
    return features_flops, flops(lambda: model.lm_head(hidden_BND).sum().backward())


def alternate(steps: list[Callable[[], None]], repeats: int) -> list[float]:
    """Run the steps alternately, first as a warm-up, then `repeats` times; return the median seconds of each."""
    seconds: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if repeat:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the peak memory in bytes of a step's tensors on the CPU, as counted by torch's allocator."""
    step()  # allocates the gradients, which are not counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _step(model: nn.Module, clip_BCTHW: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=False)
        model(clip_BCTHW).square().mean().backward()

    return step
