"""VideoSwin against torchvision's SwinTransformer3d with the same random weights.

Worst case measured on CPU: 2e-6 of the stage outputs.
"""

import pytest
import torch
from torch import Tensor
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d, swin3d_b, swin3d_t

from bevt_core.models.build import build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.weights.other_projects import classifier_from_torchvision
from bevt_core.weights.surgery import swin_sizes


def ours(reference: SwinTransformer3d) -> Classifier:
    """Our classifier with the reference's weights; sizes come from the weights."""
    state, dropped = classifier_from_torchvision(reference.state_dict())
    assert all(key.endswith("relative_position_index") for key in dropped)
    model = build_classifier(**swin_sizes(state, "stem.", "encoder."), num_classes=len(state["fc.bias"]))
    model.load_state_dict(state)
    return model.eval()


def stage_outputs(reference: SwinTransformer3d, clip_BCTHW: Tensor) -> list[Tensor]:
    x, outputs = reference.patch_embed(clip_BCTHW), []
    for i, part in enumerate(reference.features):
        x = part(x)
        if i % 2 == 0:
            outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def small() -> SwinTransformer3d:
    """Two stages, so that small clips reach every case of windows: clipped in time, padded, shifted."""
    torch.manual_seed(0)
    patch, window = [2, 4, 4], [4, 3, 3]
    return SwinTransformer3d(
        patch, 16, [2, 2], [2, 4], window, stochastic_depth_prob=0.0, num_classes=5, patch_embed=PatchEmbed3d
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "size_THW",
    [
        (16, 48, 48),  # whole windows, shifted on all axes
        (8, 48, 48),  # one window in time: no shift there
        (4, 48, 48),  # T smaller than the window
        (2, 24, 24),  # one frame on the grid
        (18, 40, 56),  # windows padded on all axes
        (16, 36, 60),  # odd grids, padded before merging
        (15, 45, 51),  # pixels padded in the stem
    ],
)
def test_every_stage_agrees(small: SwinTransformer3d, size_THW: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    clip_BCTHW = torch.randn(2, 3, *size_THW)
    model = ours(small)
    outputs = model.encoder(model.stem(clip_BCTHW))
    for ours_BTHWC, theirs_BTHWC in zip(outputs, stage_outputs(small, clip_BCTHW), strict=True):
        torch.testing.assert_close(ours_BTHWC, theirs_BTHWC, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(clip_BCTHW), small(clip_BCTHW), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("builder", "size_THW"), [(swin3d_t, (8, 224, 224)), (swin3d_t, (4, 240, 256)), (swin3d_b, (2, 224, 224))]
)
def test_published_shapes_agree(builder, size_THW: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", torch.nn.init.normal_)  # as good here, and ten times faster
    torch.manual_seed(0)
    reference = builder(weights=None).eval()
    clip_BCTHW = torch.randn(1, 3, *size_THW)
    torch.testing.assert_close(ours(reference)(clip_BCTHW), reference(clip_BCTHW), atol=1e-5, rtol=0)


def test_gradients_agree(small: SwinTransformer3d) -> None:
    torch.manual_seed(1)
    clip_BCTHW = torch.randn(2, 3, 18, 40, 56)
    model = ours(small)
    small.zero_grad()
    small(clip_BCTHW).square().sum().backward()
    model(clip_BCTHW).square().sum().backward()
    expected, _ = classifier_from_torchvision({name: p.grad for name, p in small.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)
