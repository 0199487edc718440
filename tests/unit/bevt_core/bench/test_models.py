"""The figures that are not times: operations of a step, memory of a step."""

import pytest
import torch

from bevt_core.bench.models import bench_encoder, bench_step, peak_bytes, step_flops
from bevt_core.models.swin import VideoSwin
from tests.support.json_keys import CheckKeys


def test_stored_tokens_save_what_the_paper_architecture_says() -> None:
    """804 TFLOP for the original's 256 clips + 2048 images, derived from the architectures."""
    counted = step_flops()
    assert 32 * counted["original_flops"] / 1e12 == pytest.approx(804, abs=0.5)
    assert counted["flops_ratio"] <= 0.56


def test_the_step_benchmark_runs_on_a_small_model(json_keys: CheckKeys) -> None:
    result = bench_step(size="nano", clips=1, images=1, frames=4, size_px=64, repeats=1)
    json_keys("bench step", result)
    assert sum(result[f"{part}_share"] for part in ("data", "tokenizer", "model")) == pytest.approx(1)
    assert result["speedup"] > 1


def test_the_encoder_benchmark_runs_on_small_clips(json_keys: CheckKeys) -> None:
    result = bench_encoder(size="tiny", batch_size=1, frames=2, size_px=32, repeats=1)
    json_keys("bench encoder", result)


def test_peak_bytes_counts_what_is_held_at_a_time() -> None:
    def step() -> None:
        first, second = torch.empty(250_000), torch.empty(250_000)
        del first
        third = torch.empty(250_000)
        del second, third

    assert peak_bytes(step) == 2_000_000


@pytest.mark.parametrize("grid", [(4, 28, 28), (1, 56, 56)], ids=["video", "image"])
def test_checkpointing_halves_the_memory_of_activations(grid: tuple[int, int, int]) -> None:
    encoder = VideoSwin(24, (4, 4), (2, 4), window=(4, 7, 7))
    x_BTHWC = torch.randn(2, *grid, 24)

    def step() -> None:
        encoder.zero_grad(set_to_none=False)
        encoder(x_BTHWC)[-1].square().mean().backward()

    kept = peak_bytes(step)
    encoder.checkpoint_activations([0, 1])
    assert peak_bytes(step) <= 0.5 * kept
