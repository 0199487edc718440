"""Quality measures against their definitions."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.tokenizers.inspection import centre_square, prepared, sampled_frames, sampled_pairs
from bevt_core.tokenizers.quality import LOSSLESS_DB, Quality, measure_still, ssim
from bevt_core.views.replay import halve
from tests.support.builders import make_token_set
from tests.support.frames import noise_frames, smooth_frames


def test_psnr_is_a_mean_over_frames_and_pooled_over_pixels() -> None:
    frames = smooth_frames(2)
    noise = torch.tensor([3.0, 30.0]).reshape(2, 1, 1, 1) * torch.randn(frames.shape)
    decoded = (frames + noise).round().clamp(0, 255).to(torch.uint8)
    quality = Quality(8)
    quality.add(frames, decoded, torch.tensor([[[0, 1]], [[1, 1]]]))
    result = quality.result()
    each = [peak_signal_noise_ratio(a, b) for a, b in zip(frames.numpy(), decoded.numpy(), strict=True)]
    assert result["psnr_db"] == pytest.approx(np.mean(each))
    assert result["psnr_pooled_db"] == pytest.approx(peak_signal_noise_ratio(frames.numpy(), decoded.numpy()))
    assert result["psnr_pooled_db"] < result["psnr_db"] - 3
    assert (result["codebook_used_share"], result["dead_codes"]) == (0.25, 6)
    assert result["perplexity"] == pytest.approx(np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))))


def test_an_exact_reconstruction_is_reported_as_lossless() -> None:
    quality = Quality(4)
    quality.add(noise_frames(1), noise_frames(1), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert (quality.result()["psnr_db"], quality.result()["ssim"]) == (LOSSLESS_DB, 1.0)


def test_ssim_falls_with_blur_and_not_with_brightness() -> None:
    frame = noise_frames(1)[0].numpy() // 2
    flat = np.full_like(frame, frame.mean())
    assert ssim(frame, frame + 5) > 0.95 > 0.2 > ssim(frame, flat)


def test_frames_are_spread_over_the_store_and_cut_as_view_0_is(tmp_path) -> None:
    store: FrameStore = make_token_set(tmp_path, num_samples=5, frames=4, sources_per_part=2).frames
    everything = sampled_frames(store, 100)
    assert len(everything) == 20
    some = sampled_frames(store, 5)
    assert [next(i for i, f in enumerate(everything) if np.array_equal(f, s)) for s in some] == [0, 5, 10, 14, 19]
    frame = np.arange(256 * 300 * 3, dtype=np.uint32).reshape(256, 300, 3).astype(np.uint8)
    square = centre_square(frame)
    assert np.array_equal(square, frame[16:240, 38:262])
    assert np.array_equal(prepared([frame], 224, halve)[0].numpy(), square)  # PeCo's size: no resampling


class Changing:
    """A tokenizer of 8 px tokens whose id is the brightness of a region in steps of 16."""

    stride = 8

    def encode(self, frames_NPPC: torch.Tensor) -> torch.Tensor:
        grey_NPP = frames_NPPC.float().mean(dim=-1)
        return (torch.nn.functional.avg_pool2d(grey_NPP, 8) / 16).long()


def test_only_regions_that_are_still_count_for_temporal_stability() -> None:
    first = torch.full((16, 16, 3), 31, dtype=torch.uint8)  # one level below the next id
    second = first.clone()
    second[:8, :8] += 1  # still, and another id
    second[8:, 8:] += 100  # moves
    still = measure_still(Changing(), torch.stack([first, second])[None])
    assert still.still_share == 0.75
    assert still.ids_kept_when_still == pytest.approx(2 / 3)
    assert measure_still(Changing(), torch.empty(0, 2)) == (None, None)
    moving = torch.stack([first, first + 100])[None]
    assert measure_still(Changing(), moving) == (0.0, None)


def test_pairs_are_consecutive_frames_of_samples_that_have_two(tmp_path) -> None:
    store: FrameStore = make_token_set(tmp_path / "videos", num_samples=5, frames=4, sources_per_part=2).frames
    everything = sampled_frames(store, 100)
    pairs = sampled_pairs(store, 3)
    found = [[next(i for i, f in enumerate(everything) if np.array_equal(f, s)) for s in pair] for pair in pairs]
    assert found == [[1, 2], [9, 10], [17, 18]]
    images = make_token_set(tmp_path / "images", num_samples=3, frames=1, kind="image").frames
    assert sampled_pairs(images, 3) == []
