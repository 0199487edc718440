"""The cost of a step: operations against torch's counter, memory against a step's tensors and peak."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import bevt_core.models.timesformer
import bevt_core.models.window_attention.dispatch
from bevt_core.bench.models import peak_bytes
from bevt_core.models.bevt import Bevt
from bevt_core.models.build import build_bevt, build_classifier
from bevt_core.models.classifier import Classifier
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.pretraining import RECIPES
from trainer.setup.activations import Layer, bevt_layers, classifier_layers, peak_elements
from trainer.setup.cost import FLOAT_BYTES, SampleCost, pretrain_cost, sample_cost
from trainer.setup.models import checkpoint_activations, checkpoint_encoder

ENCODERS = {
    "swin": {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window": (4, 7, 7), "patch": (2, 4, 4)},
    "timesformer": {"embed_dim": 96, "depth": 2, "num_heads": 4, "grid": (4, 14, 14), "patch": (2, 8, 8)},
}
FRAMES = {"video": 8, "image": 1, "class": 8}
SIZE_PX = 112

Parts = tuple[nn.Module, nn.Module, Callable[[Tensor], Tensor], list[Layer]]


def parts(encoder: str, stream: str, checkpointed: bool) -> Parts:
    """Return a small model, its stem, its forward pass and its layers."""
    sizes = {"encoder": encoder, **ENCODERS[encoder], "drop_path": 0.1}  # none in the first block
    model: Bevt | Classifier
    if stream == "class":
        model = build_classifier(**sizes, num_classes=10, dropout=0.0)
        if checkpointed:
            checkpoint_encoder(model.encoder)
        return model, model.stem, model, classifier_layers(model, FRAMES[stream], SIZE_PX)
    model = build_bevt(**sizes, vocab_size=64)
    if checkpointed:
        checkpoint_activations(model)
    forward = functools.partial(model.features, mask_BTHW=None, stream=stream)
    return model, model.stems[stream], forward, bevt_layers(model, stream, FRAMES[stream], SIZE_PX)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use attention that stores only the bias matrices, as on GPUs."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4))
        return y.unflatten(0, q.shape[:-3])

    monkeypatch.setattr(bevt_core.models.timesformer, "attend", attend)
    monkeypatch.setattr(bevt_core.models.window_attention.dispatch, "CPU_FROM", 1)


def clip(stream: str) -> Tensor:
    return torch.zeros(1, 3, FRAMES[stream], SIZE_PX, SIZE_PX)


def counted(encoder: str, stream: str, checkpointed: bool) -> tuple[SampleCost, int]:
    """Return the operations that `sample_cost` and torch's counter find for both passes."""
    with torch.device("meta"):
        _, stem, forward, layers = parts(encoder, stream, checkpointed)
        with FlopCounterMode(display=False) as counter:
            forward(clip(stream)).sum().backward()
    return sample_cost(forward, stem, layers, FRAMES[stream], SIZE_PX), counter.get_total_flops()


@pytest.mark.parametrize("stream", FRAMES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_operations_are_those_that_torch_counts(encoder: str, stream: str) -> None:
    plain, plain_flops = counted(encoder, stream, False)
    checkpointed, checkpointed_flops = counted(encoder, stream, True)
    assert plain.flops == plain.model_flops == checkpointed.model_flops == plain_flops
    assert checkpointed.flops == checkpointed_flops
    assert 1.1 < checkpointed.flops / plain.flops < 4 / 3


def kept_bytes(model: nn.Module, forward: Callable[[Tensor], Tensor], clip_BCTHW: Tensor) -> int:
    """Return what a forward pass keeps for its backward pass, without weights and cached tensors."""
    sizes: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        if tensor.is_floating_point():
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward(clip_BCTHW))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for address, size in sizes.items() if address not in weights)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("stream", FRAMES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_layers_keep_what_a_forward_pass_keeps(encoder: str, stream: str) -> None:
    model, _, forward, layers = parts(encoder, stream, checkpointed=False)
    estimated = FLOAT_BYTES * sum(layer.kept for layer in layers)
    assert estimated == pytest.approx(kept_bytes(model, forward, clip(stream)), rel=0.02)  # worst seen 0.007


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_peak_is_that_of_a_step(encoder: str, checkpointed: bool) -> None:
    model, _, forward, layers = parts(encoder, "video", checkpointed)
    clip_BCTHW = clip("video")

    def step() -> None:
        model.zero_grad(set_to_none=False)
        forward(clip_BCTHW).sum().backward()

    measured = peak_bytes(step) + clip_BCTHW.nbytes  # the clip is kept, but existed before
    assert FLOAT_BYTES * peak_elements(layers) == pytest.approx(measured, rel=0.15)  # worst seen 0.11


@pytest.mark.parametrize(
    ("name", "checkpointed", "followed_mb"),
    [
        ("joint_swin_base_k400_in1k", False, {"video": 1205.3, "image": 131.8}),
        ("joint_swin_base_k400_in1k", True, {"video": 209.7, "image": 31.3}),
        ("ablations/table8_timesformer_joint", False, {"video": 1409.2, "image": 93.5}),
        ("ablations/table8_timesformer_joint", True, {"video": 241.3, "image": 20.3}),
    ],
)
def test_the_cost_of_a_sample_of_a_shipped_recipe_is_unchanged(
    name: str, checkpointed: bool, followed_mb: dict[str, float]
) -> None:
    """Compare with figures of a pass of torch's operators, tracked tensor by tensor on the meta device."""
    recipe = load_recipe_of(PretrainRecipe, name, RECIPES)
    samples = pretrain_cost(recipe, dict.fromkeys(followed_mb, 224), checkpointed).samples
    assert {stream: sample.peak_bytes / 1e6 for stream, sample in samples.items()} == pytest.approx(
        followed_mb, rel=0.08
    )
