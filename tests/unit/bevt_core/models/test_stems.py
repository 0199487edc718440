"""The matrix product that stems use on GPUs equals the convolution that they use on CPUs."""

import pytest
import torch

from bevt_core.models.stems import Stem2d, Stem3d, embed_patches, patches_times_kernel


@pytest.mark.parametrize("patch", [(2, 4, 4), (1, 16, 16), (2, 3, 5)], ids=str)
def test_a_product_of_matrices_convolves(patch: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    stem = Stem3d(patch, 8).double()
    clip_BCTHW = torch.randn(2, 3, 2 * patch[0], 3 * patch[1], 2 * patch[2], dtype=torch.float64, requires_grad=True)
    weight, bias = stem.proj.weight, stem.proj.bias
    results = []
    for embed in (embed_patches, patches_times_kernel):
        y_BTHWC = embed(clip_BCTHW, weight, bias)
        results.append([y_BTHWC, *torch.autograd.grad(y_BTHWC.square().sum(), (clip_BCTHW, weight, bias))])
    for convolved, multiplied in zip(*results, strict=True):
        torch.testing.assert_close(convolved, multiplied)


def test_what_a_patch_does_not_divide_is_padded() -> None:
    clip_BCTHW = torch.randn(1, 3, 3, 9, 8)
    stem = Stem3d((2, 4, 4), 8)
    padded_BCTHW = torch.nn.functional.pad(clip_BCTHW, (0, 0, 0, 3, 0, 1))
    assert torch.equal(stem(clip_BCTHW), stem(padded_BCTHW)) and stem(clip_BCTHW).shape == (1, 2, 3, 2, 8)
    assert Stem2d((4, 4), 8)(clip_BCTHW[:, :, :1]).shape == (1, 1, 3, 2, 8)
