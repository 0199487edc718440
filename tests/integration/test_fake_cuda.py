"""What a GPU would run, on tensors without numbers: nothing that CUDA lacks, no mixed devices, no wait in a step."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.masking import hidden_positions
from bevt_core.models.build import build_bevt, build_classifier
from bevt_core.models.swin import use_attention
from schemas.recipes import LoopConfig, MixConfig, OptimConfig
from tests.support.fake_cuda import CUDA, fake_cuda, on_cuda
from trainer.distributed.ema import WithAverage
from trainer.distributed.world import World
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.step import Stepper
from trainer.engine.task import Batch, Task
from trainer.finetune.task import TERM, ClassifyTask
from trainer.pretrain.stage import HIDDEN_MULTIPLE
from trainer.pretrain.task import PretrainTask
from trainer.probes.knn import knn_predict

pytestmark = pytest.mark.fake_cuda

VOCAB = 32
WORLD = World(rank=0, size=1, device=CUDA)
OPTIM = OptimConfig(lr=1e-3, weight_decay=0.05, warmup_epochs=0, clip_grad_norm=3.0)
# windows that clip, shift and pad the grids of 64-px clips and pictures
SWIN = {"embed_dim": 48, "depths": (2, 1, 1), "num_heads": (2, 4, 8), "patch": (2, 8, 8)}
SWIN |= {"window": (4, 7, 7), "drop_path": 0.1}
TIMESFORMER = {"embed_dim": 48, "depth": 2, "num_heads": 2, "grid": (4, 4, 4), "patch": (2, 16, 16), "drop_path": 0.1}
BACKBONES = {"swin": SWIN, "timesformer": TIMESFORMER}


def loop_config(**changes: Any) -> LoopConfig:
    return LoopConfig(epochs=1, seed=0, precision="bf16", num_workers=0, checkpoint_every=1, **changes)


def faults_of_a_step(make_task: Callable[[], Task], make_micros: Callable[[], list[Batch]]) -> list[str]:
    with fake_cuda() as watch:
        task = make_task()
        micros = [pinned(micro) for micro in make_micros()]
        optimizer = build_optimizer(task.model, OPTIM)
        stepper = Stepper(task, optimizer, CosineSchedule(10, 0, 0.1, 0.0), OPTIM, loop_config(), WORLD)
        stepper.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for step in (0, 1):  # constants are copied to the device in the first one
            watch.faults.clear()
            stepper.step(step, micros, [["a"]] * len(micros), lambda: False)
        faults = list(watch.faults)
        untouched = [name for name, p in task.model.named_parameters() if p.requires_grad and not optimizer.state[p]]
    assert untouched == []
    return faults


def pinned(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.pin_memory()
    return {key: pinned(value) for key, value in batch.items()} if isinstance(batch, dict) else batch


def joint_micro() -> Batch:
    parts: Batch = {}
    for stream, frames, tubelets in (("video", 8, 4), ("image", 1, 1)):
        hidden = torch.zeros(HIDDEN_MULTIPLE, dtype=torch.int64)
        parts[stream] = {
            "clip": torch.zeros(2, frames, 64, 64, 3, dtype=torch.uint8),
            "tokens": torch.zeros(2, frames, 4, 4, dtype=torch.int64),
            "mask": torch.zeros(2, tubelets, 4, 4, dtype=torch.bool),
            "hidden": hidden,
            "sample_id": ["a", "b"],
        }
    return parts


class CountsApart:
    """A task whose targets are counted without reading the batch: fake numbers cannot be read on any device."""

    def __init__(self, task: Task, counts: Mapping[str, int]) -> None:
        self.task, self.model, self._counts = task, task.model, counts

    def counts(self, batch: Batch) -> Mapping[str, int]:
        return self._counts

    def losses(self, model: nn.Module, batch: Batch, step: int) -> Any:
        return self.task.losses(model, batch, step)


@pytest.mark.parametrize(
    ("encoder", "attention"), [("swin", "triton"), ("swin", "sdpa"), ("swin", "math"), ("timesformer", "auto")]
)
def test_a_joint_step_never_waits_for_the_device(encoder: str, attention: str) -> None:
    def task() -> Task:
        model = on_cuda(lambda: build_bevt(encoder=encoder, **BACKBONES[encoder], vocab_size=VOCAB))
        use_attention(model, attention)
        plain = PretrainTask(model, {"video": 1.0, "image": 1.0}, VOCAB, {})  # type: ignore[arg-type]
        return CountsApart(plain, {"mim": 10, "mvm": 20})

    assert faults_of_a_step(task, lambda: [joint_micro()]) == []


@pytest.mark.parametrize("mix", [None, MixConfig(mixup_alpha=0.8, cutmix_alpha=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("encoder", BACKBONES)
def test_a_fine_tuning_step_never_waits_for_the_device(encoder: str, mix: MixConfig | None) -> None:
    def task() -> Task:
        model = on_cuda(lambda: build_classifier(encoder=encoder, **BACKBONES[encoder], num_classes=5, dropout=0.5))
        return CountsApart(ClassifyTask(model, 5, 0.1, mix, 0), {TERM: 4})

    def micro() -> Batch:
        clips = torch.zeros(4, 8, 64, 64, 3, dtype=torch.uint8)
        return {TERM: {"clip": clips, "label": torch.zeros(4, dtype=torch.int64), "error": [None] * 4}}

    assert faults_of_a_step(task, lambda: [micro()]) == []


@pytest.mark.parametrize("encoder", BACKBONES)
def test_attention_has_the_four_axes_that_fused_kernels_take(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    axes: set[int] = set()
    plain = F.scaled_dot_product_attention

    def noted(q: Tensor, *others: Any, **options: Any) -> Tensor:
        axes.add(q.ndim)
        return plain(q, *others, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    with fake_cuda():
        model = on_cuda(lambda: build_bevt(encoder=encoder, **BACKBONES[encoder], vocab_size=VOCAB))
        model.features(torch.zeros(1, 3, 8, 64, 64, device=CUDA), None, "video")  # type: ignore[operator]
    assert axes == {4}


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
def test_features_of_pictures_and_clips_of_other_sizes(checkpointed: bool) -> None:
    """Sizes that need padding everywhere; activation checkpointing runs blocks again in the backward pass."""
    with fake_cuda() as watch:
        model = on_cuda(lambda: build_bevt(**SWIN, vocab_size=VOCAB))
        assert isinstance(model.encoders, nn.ModuleDict)
        for encoder in model.encoders.values():
            encoder.checkpoint_activations(range(3 if checkpointed else 0))  # type: ignore[operator]
        with torch.autocast("cuda", torch.bfloat16):
            video = model.features(torch.zeros(1, 3, 5, 72, 50, device=CUDA), None, "video")  # type: ignore[operator]
            image = model.features(torch.zeros(1, 3, 1, 72, 50, device=CUDA), None, "image")  # type: ignore[operator]
        (video.sum() + image.sum()).backward()
    assert watch.faults == []


def test_averaged_weights_follow_without_a_wait() -> None:
    with fake_cuda() as watch:
        averaged = on_cuda(lambda: WithAverage(build_bevt(**SWIN, vocab_size=VOCAB), 0.99))
        watch.faults.clear()
        averaged.update(1)  # type: ignore[operator]
    assert watch.faults == []


def test_neighbours_are_found_on_the_device_without_a_wait() -> None:
    with fake_cuda() as watch:
        train_NC, labels_N = torch.zeros(50, 8, device=CUDA), torch.zeros(50, dtype=torch.int64, device=CUDA)
        predicted_N = knn_predict(train_NC, labels_N, torch.zeros(10, 8, device=CUDA), 5)
    assert predicted_N.device == CUDA and watch.faults == []


# ---- the watch itself -----------------------------------------------------------------------------


FAULTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a product of integers": (lambda x: x.long() @ x.long(), "product of torch.int64"),
    "a boolean index": (lambda x: x[x > 0], "waits"),
    "a number read": (lambda x: x.sum().item(), "waits"),
    "a blocking copy to the device": (lambda x: torch.tensor([1.0], device=x.device), "waits for a copy to"),
    "a blocking copy from the device": (lambda x: x.cpu(), "waits for a copy from"),
    "a copy of pageable memory": (lambda x: torch.zeros(3).to(x.device, non_blocking=True), "not pinned"),
}


@pytest.mark.parametrize(("run", "fault"), FAULTS.values(), ids=FAULTS)
def test_the_watch_sees(run: Callable[[Tensor], Any], fault: str) -> None:
    with fake_cuda() as watch:
        run(torch.zeros(4, 4, device=CUDA))
    assert any(fault in found for found in watch.faults), watch.faults


def test_the_watch_accepts_pinned_copies_and_sees_mixed_devices() -> None:
    with fake_cuda() as watch:
        torch.zeros(3).pin_memory().to(CUDA, non_blocking=True)
        torch.zeros(3, device=CUDA).to("cpu", non_blocking=True)
        with pytest.raises(RuntimeError, match="device"):
            torch.zeros(3, device=CUDA) + torch.zeros(3)
    assert watch.faults == []


def test_the_backward_pass_of_the_watch_is_that_of_autograd() -> None:
    """On the CPU, with real numbers: the walk over the graph gives the engine's gradients."""
    from tests.support.fake_cuda import backward

    torch.manual_seed(0)
    model = build_bevt(**SWIN, vocab_size=VOCAB)
    mask_BTHW = torch.rand(2, 1, 4, 4) < 0.5
    batch = (
        torch.randn(2, 3, 1, 64, 64),
        torch.randint(VOCAB, (2, 1, 4, 4)),
        mask_BTHW,
        hidden_positions(mask_BTHW, 1),
    )
    gradients = []
    for run in (lambda loss: loss.backward(), backward):
        model.eval().zero_grad()
        run(model({"image": batch})["image"].loss_sum)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, engines in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, engines)
