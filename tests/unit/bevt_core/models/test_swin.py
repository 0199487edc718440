"""The encoder's shapes, shift masks and relative positions, against values computed by hand where feasible."""

import math

import pytest
import torch

from bevt_core.models.swin import SwinBlock, VideoSwin, draw_drop_path, scaled
from bevt_core.models.windows import (
    PairBias,
    Windows,
    fit_window,
    from_windows,
    kind_counts,
    pad_to_windows,
    relative_position_bias,
    relative_position_index,
    shift_masks,
    sum_diagonals,
    to_windows,
    window_kinds,
    windows_of,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("grid", "window", "shift", "fitted"),
    [
        ((8, 56, 56), (8, 7, 7), (4, 3, 3), ((8, 7, 7), (0, 3, 3))),
        ((16, 14, 14), (8, 7, 7), (4, 3, 3), ((8, 7, 7), (4, 3, 3))),
        ((1, 7, 5), (8, 7, 7), (4, 3, 3), ((1, 7, 5), (0, 0, 0))),
    ],
)
def test_windows_are_clipped_and_their_shift_switched_off(grid, window, shift, fitted) -> None:
    assert fit_window(grid, window, shift) == fitted


def test_windows_round_trip() -> None:
    x_BTHWC = torch.randn(2, 4, 6, 9, 5)
    windows = Windows((4, 6, 9), (2, 3, 3), (0, 0, 0))
    x_BKNC = to_windows(x_BTHWC, windows)
    assert x_BKNC.shape == (2, 12, 18, 5)
    assert torch.equal(x_BKNC[0, 0], x_BTHWC[0, :2, :3, :3].reshape(18, 5))
    assert torch.equal(from_windows(x_BKNC, windows, (4, 6, 9)), x_BTHWC)


def test_shifted_windows_are_those_of_the_rolled_grid() -> None:
    x_BTHWC = torch.randn(2, 4, 6, 9, 5, requires_grad=True)
    rolled_BTHWC = torch.roll(x_BTHWC, (-1, -2, 0), dims=(1, 2, 3))
    windows = Windows((4, 6, 9), (2, 3, 3), (1, 2, 0))
    x_BKNC = to_windows(x_BTHWC, windows)
    assert torch.equal(x_BKNC, to_windows(rolled_BTHWC, windows._replace(shift=(0, 0, 0))))
    assert torch.equal(from_windows(x_BKNC, windows, (4, 6, 9)), x_BTHWC)
    weight_BKNC = torch.randn_like(x_BKNC)
    (grad_BTHWC,) = torch.autograd.grad(x_BKNC, x_BTHWC, weight_BKNC)
    assert torch.equal(grad_BTHWC, from_windows(weight_BKNC, windows, (4, 6, 9)))


def test_a_padded_grid_comes_back_without_its_padding() -> None:
    x_BTHWC = torch.randn(2, 3, 5, 8, 4)
    windows = windows_of((3, 5, 8), (2, 3, 3), (1, 1, 1))
    assert windows.grid == (4, 6, 9)
    assert torch.equal(
        from_windows(to_windows(pad_to_windows(x_BTHWC, (2, 3, 3)), windows), windows, (3, 5, 8)), x_BTHWC
    )


def test_padding_reaches_the_next_whole_window() -> None:
    assert pad_to_windows(torch.ones(1, 3, 5, 7, 2), (2, 4, 7)).shape == (1, 4, 8, 7, 2)


def test_relative_positions_by_hand() -> None:
    """A window (1, 1, 3): the table's rows are dw = -2..2."""
    index_NN = relative_position_index((1, 1, 3), (1, 1, 3), CPU)
    assert index_NN.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_a_clipped_window_reads_its_true_relative_positions() -> None:
    full = relative_position_index((4, 3, 3), (4, 3, 3), CPU).view(4, 3, 3, 4, 3, 3)
    clipped = relative_position_index((1, 2, 3), (4, 3, 3), CPU).view(1, 2, 3, 1, 2, 3)
    assert torch.equal(clipped, full[:1, :2, :, :1, :2, :])


def test_shift_masks_keep_opposite_borders_apart() -> None:
    """Six columns, windows of 3, rolled by 1: the last window holds columns 4, 5 and 0."""
    masks_MNN = shift_masks((1, 1, 3), (0, 0, 1), CPU)
    kinds_K = window_kinds(Windows((1, 1, 6), (1, 1, 3), (0, 0, 1)), CPU)
    assert torch.equal(masks_MNN[kinds_K[0]], torch.zeros(3, 3))
    assert masks_MNN[kinds_K[1]].tolist() == [[0, 0, -math.inf], [0, 0, -math.inf], [-math.inf, -math.inf, 0]]


@pytest.mark.parametrize(("shift", "num_kinds"), [((0, 0, 0), 1), ((0, 3, 3), 4), ((4, 3, 3), 8)])
def test_windows_share_few_masks(shift, num_kinds) -> None:
    masks_MNN = shift_masks((8, 7, 7), shift, CPU)
    windows = Windows((16, 56, 56), (8, 7, 7), shift)
    kinds_K = window_kinds(windows, CPU)
    assert masks_MNN.shape == (num_kinds, 392, 392)
    assert kinds_K.shape == (2 * 8 * 8,)
    assert kind_counts(windows) == kinds_K.bincount().tolist()


@pytest.mark.parametrize("window", [(2, 3, 4), (1, 3, 4), (2, 2, 1)], ids=str)
def test_the_bias_gradient_of_gpus_sums_the_same_pairs(window) -> None:
    torch.manual_seed(0)
    table_window, positions = (2, 3, 4), math.prod(window)
    table_RA = torch.randn(3 * 5 * 7, 2, dtype=torch.float64, requires_grad=True)
    index_NN = relative_position_index(window, table_window, CPU)
    weight_ANN = torch.randn(2, positions, positions, dtype=torch.float64)
    results = []
    for bias_ANN in (
        relative_position_bias(table_RA, window, table_window),
        PairBias.apply(table_RA, index_NN, window, table_window),
    ):
        results.append((bias_ANN, *torch.autograd.grad(bias_ANN, table_RA, weight_ANN)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_diagonals_are_summed_by_hand() -> None:
    """The entries of i - j = -1, 0, 1."""
    assert sum_diagonals(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [2.0, 5.0, 3.0]


def test_the_first_and_the_last_column_never_meet() -> None:
    """A change at the right border must not reach the left one through a single shifted block."""
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window=(2, 4, 4), shift=(1, 2, 2), mlp_ratio=2.0, drop_path=0.0)
    x_BTHWC = torch.randn(1, 4, 8, 8, 8)
    changed = x_BTHWC.clone()
    changed[:, :, :, -1] += 1
    moved_W = (block(changed) - block(x_BTHWC)).abs().amax(dim=(0, 1, 2, 4))
    assert (moved_W[:6] == 0).all()
    assert (moved_W[6:] > 0).all()


@pytest.mark.parametrize("depths", [(1, 1), (2, 2, 2), (1, 1, 2, 1)])
@pytest.mark.parametrize("grid", [(4, 16, 16), (1, 16, 16), (3, 13, 18)])
def test_stages_halve_space_and_keep_time(depths, grid) -> None:
    encoder = VideoSwin(8, depths, [2] * len(depths), window=(2, 4, 4))
    outputs = encoder(torch.randn(2, *grid, 8))
    T, H, W = grid
    expected = [(2, T, math.ceil(H / 2**i), math.ceil(W / 2**i), 8 * 2**i) for i in range(len(depths))]
    assert [tuple(y.shape) for y in outputs] == expected


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 3)
    factor_1B = draw_drop_path(0.25, 1, x)
    assert factor_1B is not None and draw_drop_path(0.0, 1, x) is None
    y = scaled(x, factor_1B[0])
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(y[:, 0], y[:, 2])
    assert y.mean().item() == pytest.approx(1, abs=0.03)


def test_drop_path_grows_linearly() -> None:
    encoder = VideoSwin(8, (2, 2), (2, 2), window=(2, 4, 4), drop_path=0.3)
    assert [b.drop_path for stage in encoder.stages for b in stage.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("grid", [(4, 8, 8), (1, 8, 8)])
def test_checkpointed_activations_give_the_same_gradients(grid) -> None:
    torch.manual_seed(0)
    encoder = VideoSwin(8, (2, 2), (2, 2), window=(2, 4, 4), drop_path=0.2).train()
    x_BTHWC = torch.randn(4, *grid, 8)
    gradients = []
    for stages in ([], [0, 1]):
        encoder.checkpoint_activations(stages)
        encoder.zero_grad()
        torch.manual_seed(1)
        encoder(x_BTHWC)[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for stored, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(stored, recomputed, atol=1e-6, rtol=0)


@pytest.mark.parametrize("window", [(3, 5, 3), (2, 9, 8)])  # not used by another test, so their constants are made here
def test_it_trains_after_a_first_call_in_inference_mode(window) -> None:
    model = VideoSwin(embed_dim=8, depths=(2,), num_heads=(2,), window=window)
    x_BTHWC = torch.randn(1, *(2 * extent for extent in window), 8)
    with torch.inference_mode():
        model(x_BTHWC)
    model(x_BTHWC)[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
