"""What the encoder and a pretraining step cost, against torchvision's encoder and the original code's step.

References run in the same process on the same inputs, in turn; times are medians.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bevt_core.bevt import Bevt
from bevt_core.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.model_info import flops
from bevt_core.weights_import import classifier_from_torchvision
from bevt_core.weights_surgery import swin_sizes

ORIGINAL_BATCH = {"video": 8, "image": 64}  # clips : images of a step, swin_base_patch244_window877_bevt_in1k_k400.py
MASKED_SHARE = {"video": 0.374, "image": 0.497}  # of the token positions, means of the original masks
VOCAB_SIZE = 8192


def bench_encoder(
    *, size: str = "tiny", batch_size: int = 2, frames: int = 16, size_px: int = 224, repeats: int = 5
) -> dict[str, float]:
    """Compare forward + backward of Video Swin with torchvision's on the CPU, in fp32, with the same weights.

    `memory_ratio` compares what a step holds at its peak above the weights and inputs.
    """
    from torchvision.models import video

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


def bench_step_flops(tokenizer_flops_per_frame: int, *, size: str = "base", frames: int = 16) -> dict[str, float]:
    """Count the operations of a joint step with stored tokens, and of the original's step at the same batch.

    The original runs the tokenizer on every frame and the LM head on every position. Counts are torch's, on the
    meta device, two per multiply-add, for one clip and one image, then multiplied.
    """
    with torch.device("meta"):
        model = build_bevt(**SWIN_SIZES[size], vocab_size=VOCAB_SIZE)
    ours = original = 0.0
    for stream, num_frames in (("video", frames), ("image", 1)):
        count = ORIGINAL_BATCH[stream]
        features_flops, head_flops = _stream_flops(model, stream, num_frames)
        ours += count * (features_flops + MASKED_SHARE[stream] * head_flops)
        original += count * (features_flops + head_flops + num_frames * tokenizer_flops_per_frame)
    return {"flops": ours, "original_flops": original, "flops_ratio": ours / original}


def _stream_flops(model: Bevt, stream: Any, frames: int) -> tuple[int, int]:
    """Operations of forward + backward for one sample: without the LM head, and of the LM head on all positions."""
    clip_BCTHW = torch.zeros(1, 3, frames, 224, 224, device="meta")
    features_BND = model.features(clip_BCTHW, None, stream)
    hidden_BND = torch.zeros_like(features_BND, requires_grad=True)
    return (
        flops(lambda: model.features(clip_BCTHW, None, stream).sum().backward()),
        flops(lambda: model.lm_head(hidden_BND).sum().backward()),
    )


def alternate(steps: list[Callable[[], None]], repeats: int) -> list[float]:
    """Run the steps in turn, once to warm up and `repeats` times to measure; return their median seconds."""
    seconds: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if repeat:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the most memory that a step's tensors hold at a time on the CPU, counted by torch's allocator."""
    step()  # gradients exist from here on, and count for nobody
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
