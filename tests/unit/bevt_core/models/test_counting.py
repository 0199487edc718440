"""Swin-B has the paper's parameters and operations (BEVT, tables 1 and 2; 32 frames of 224 px)."""

import pytest
import torch

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.models.counting import flops, model_info


@pytest.mark.parametrize(
    ("window", "num_classes", "millions", "giga"),
    [((8, 7, 7), 400, 88.1, 282), ((16, 7, 7), 174, 88.8, 321)],
    ids=["k400", "ssv2"],
)
def test_swin_b_is_the_papers(window: tuple[int, int, int], num_classes: int, millions: float, giga: int) -> None:
    def build() -> torch.nn.Module:
        return build_classifier(**SWIN_SIZES["base"], window=window, num_classes=num_classes)

    info = model_info(build, frames=32, size_px=224)
    assert info["parameters"] / 1e6 == pytest.approx(millions, abs=0.06)
    assert round(info["paper_flops"] / 1e9) == giga


def test_flops_count_two_per_multiply_add_and_the_backward_pass() -> None:
    layer = torch.nn.Linear(8, 4, device="meta")
    x = torch.zeros(10, 8, device="meta", requires_grad=True)
    assert flops(lambda: layer(x)) == 2 * 10 * 8 * 4
    assert flops(lambda: layer(x).sum().backward()) == 3 * 2 * 10 * 8 * 4
