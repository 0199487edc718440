"""The benchmark of one training step: the loop's own step on random batches made in advance.

Forward pass, backward pass and optimizer are timed by the device's clock. Steps are queued one after the other, as the
loop does on a GPU.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bevt_core.bench.models import MASKED_SHARE, VOCAB_SIZE, step_flops
from bevt_core.bench.timing import Marks, available_device, device_name, synchronize
from bevt_core.masking import hidden_positions
from bevt_core.models.bevt import Bevt
from bevt_core.models.build import SWIN_SIZES, build_bevt, check_size
from bevt_core.tokenizers.base import Tokenizer
from schemas.errors import UserError
from schemas.recipes import LoopConfig, OptimConfig
from trainer.distributed.world import World
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.step import Stepper, StepReport
from trainer.engine.task import Batch, Term
from trainer.metrics.monitor import peak_tflops
from trainer.pretrain.stage import HIDDEN_MULTIPLE
from trainer.pretrain.task import PretrainTask
from trainer.setup.models import checkpoint_activations

DROP_PATH = 0.3  # as in the paper's joint stage
SYNC_WARNING = "called a synchronizing CUDA operation"  # the warning of torch.cuda.set_sync_debug_mode
WARM_UP = 3  # steps; the first one compiles kernels
# a learning rate at which a few steps on random targets do no harm; the other values are the paper's
OPTIM = OptimConfig(lr=1e-6, weight_decay=0.05, warmup_epochs=0.0, clip_grad_norm=3.0)


def bench_train_step(
    *,
    size: str = "base",
    clips: int = 8,
    images: int = 64,
    frames: int = 16,
    size_px: int = 224,
    device: str = "cuda",
    precision: str = "bf16",
    attention: str = "auto",
    activation_checkpointing: bool = False,
    compile_blocks: bool = False,
    tokenizer: Tokenizer | None = None,
    repeats: int = 8,
) -> dict[str, Any]:
    """Measure a joint step of a Swin size, with stored tokens or with `tokenizer` in it.

    Times are medians in milliseconds: `step_ms` from the start of a step to that of the next, and within it
    `forward_ms` (includes the tokenizer), `backward_ms` (includes the gradient's norm) and `optimizer_ms`; `host_ms` is
    the time that the host needs to queue the step. `mfu` does not count recomputation, and is None on a device of
    unknown peak. `syncs` is how often the host waited for the GPU inside a step. Raises UserError for an unavailable
    device, for an unknown size, and for a tokenizer with another grid than the model's.
    """
    check_size(size)
    side = _grid(size, size_px)
    if tokenizer is not None and tokenizer.grid != (side, side):
        raise UserError(
            f"tokenizer {tokenizer.name} has {' x '.join(map(str, tokenizer.grid))} tokens per frame, but size {size} "
            f"predicts {side} x {side} at {size_px} px; give one for {side} x {side} tokens, or another `size_px`"
        )
    where = available_device(device)
    loop = LoopConfig(
        epochs=1.0,
        seed=0,
        precision=precision,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile="blocks" if compile_blocks else False,
        num_workers=0,
        checkpoint_every=1,
    )
    with where:
        model = build_bevt(**SWIN_SIZES[size], drop_path=DROP_PATH, vocab_size=VOCAB_SIZE)
    if activation_checkpointing:
        checkpoint_activations(model)
    tokenizers = {} if tokenizer is None else dict.fromkeys(("video", "image"), tokenizer)
    task = _TimedTask(model, {"video": 1.0, "image": 1.0}, VOCAB_SIZE, tokenizers, where)
    schedule = CosineSchedule(total_steps=10**6, warmup_steps=0, warmup_start=1.0, final_share=1.0)
    stepper = Stepper(task, build_optimizer(model, OPTIM), schedule, OPTIM, loop, World(0, 1, where))
    stepper.wrap()
    batch = {}
    for name, samples, length in (("video", clips, frames), ("image", images, 1)):
        mask_BTHW = torch.rand(samples, max(1, length // 2), side, side) < MASKED_SHARE[name]
        batch[name] = random_stream_batch(mask_BTHW, length, size_px, {"tokens": VOCAB_SIZE}, tokenizer, where)
    first_s, times = _timed_steps(stepper, task, batch, repeats)
    syncs = count_syncs(lambda: _step(stepper, batch, 0), where)
    flops = step_flops(size=size, clips=clips, images=images, frames=frames, size_px=size_px)["flops"]
    achieved = flops / times["step_ms"] / 1e9
    peak = peak_tflops(where, None)
    return {
        "device": device_name(where),
        "attention": stepper.attention(),
        "activation_checkpointing": activation_checkpointing,
        "compile": "blocks" if compile_blocks else "none",
        "tokens": "stored" if tokenizer is None else f"in the step, {tokenizer.dtype}",
        "clips": clips,
        "images": images,
        **times,
        "first_step_s": first_s,
        "samples_per_s": 1000 * (clips + images) / times["step_ms"],
        "tflops_per_s": achieved,
        "mfu": None if peak is None else achieved / peak,
        "peak_gb": torch.cuda.max_memory_allocated(where) / 1e9 if where.type == "cuda" else None,
        "syncs": syncs,
    }


class _TimedTask(PretrainTask):
    """A pretraining task with time marks around its forward passes."""

    def __init__(
        self,
        model: Bevt,
        weights: Mapping[str, float],
        vocab_size: int,
        tokenizers: Mapping[str, Tokenizer],
        device: torch.device,
    ) -> None:
        super().__init__(model, weights, vocab_size, tokenizers)
        self.forward = Marks(device)

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        self.forward.add()
        terms = super().losses(model, batch, step)
        self.forward.add()
        return terms


def random_stream_batch(
    mask_BTHW: Tensor,
    frames: int,
    size_px: int,
    vocab_sizes: Mapping[str, int],
    tokenizer: Tokenizer | None,
    device: torch.device,
) -> Batch:
    """Return a random batch of one stream as the loader makes it, in pinned memory if `device` is a GPU.

    `vocab_sizes` are by key of the tokens in the batch; with a `tokenizer`, the batch has its frames instead.
    """
    samples, _, *grid_HW = mask_BTHW.shape
    batch: Batch = {
        "clip": torch.randint(256, (samples, frames, size_px, size_px, 3), dtype=torch.uint8),
        "mask": mask_BTHW,
        "hidden": hidden_positions(mask_BTHW, frames, HIDDEN_MULTIPLE if device.type == "cuda" else 1),
    }
    if tokenizer is None:
        for key, size in vocab_sizes.items():
            batch[key] = torch.randint(size, (samples, frames, *grid_HW))
    else:
        side = tokenizer.input_px
        batch["frames"] = torch.randint(256, (samples, frames, side, side, 3), dtype=torch.uint8)
    return pinned(batch, device)


def pinned(batch: Batch, device: torch.device) -> Batch:
    """Return the batch of one stream in pinned memory if `device` is a GPU."""
    if device.type != "cuda":
        return batch
    return {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in batch.items()}


def _timed_steps(stepper: Stepper, task: _TimedTask, batch: Batch, repeats: int) -> tuple[float, dict[str, float]]:
    """Return the first step's seconds, and the median milliseconds of the steps after the warm-up."""
    device = stepper.world.device
    began = time.perf_counter()
    _step(stepper, batch, 0).read()
    first_s = time.perf_counter() - began
    for step in range(1, WARM_UP):
        _step(stepper, batch, step).read()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    task.forward.marks.clear()
    marks, host_ms, reports = Marks(device), [], []
    marks.add()
    for step in range(repeats):
        began = time.perf_counter()
        reports.append(_step(stepper, batch, step))
        host_ms.append(1000 * (time.perf_counter() - began))
        marks.add()
        if step:
            reports[step - 1].read()  # one step late, as in the loop
    step_ms = marks.intervals_ms()
    values = [report.read() for report in reports]
    forward_ms = task.forward.intervals_ms()[::2]
    backward_ms = [
        1000 * value["forward_backward_s"] - forward for value, forward in zip(values, forward_ms, strict=True)
    ]
    times = {
        "step_ms": step_ms,
        "forward_ms": forward_ms,
        "backward_ms": backward_ms,
        "optimizer_ms": [1000 * value["optimizer_s"] for value in values],
        "host_ms": host_ms,
    }
    return first_s, {name: statistics.median(each) for name, each in times.items()} | {"loss": values[-1]["loss"]}


def _step(stepper: Stepper, batch: Batch, step: int) -> StepReport:
    return stepper.step(step, [batch], [[]], lambda: False)


def count_syncs(step: Callable[[], object], device: torch.device) -> int | None:
    """Return the number of operations in `step` in which the host waits for the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    synchronize(device)
    return sum(SYNC_WARNING in str(warning.message) for warning in caught)


def _grid(size: str, size_px: int) -> int:
    """Return the number of tokens along a side of a crop."""
    _, patch_h, _ = SWIN_SIZES[size].get("patch", (2, 4, 4))
    return int(size_px // (patch_h * 2 ** (len(SWIN_SIZES[size]["depths"]) - 2)))
