"""The tokenizer included in the package: small, offline, and better than the mean colour of every block."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bevt_core.tokenizers import PRETRAINED, load_tokenizer
from bevt_core.tokenizers.description import read_description
from bevt_core.views.replay import halve, shrink_short_side


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "side", "input_px"), [("dvae-small", 14, 112), ("dvae-nano", 8, 64)])
def test_it_is_found_by_name_and_small(name: str, side: int, input_px: int) -> None:
    folder = PRETRAINED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6e6
    assert "CC BY 2.0" in (folder / "CARD.md").read_text()  # the one photograph that asks to be named
    identity = load_tokenizer(name).identity()
    assert (identity.name, identity.grid, identity.input_px) == ("dvae", (side, side), input_px)
    assert identity.vocab_size == read_description(folder).sizes.vocab_size


def test_unseen_pictures_beat_block_means(shared_data: Path) -> None:
    """28 ImageNet validation pictures, centre view; the figures in CARD.md are for all 202, measured the same way."""
    frames_NHWC = np.stack([centre_view(path) for path in sorted(shared_data.glob("imagenet/val/*/*"))[::7]])[:28]
    tokenizer = load_tokenizer("dvae-small")
    tokens = tokenizer.encode(torch.from_numpy(frames_NHWC))
    decoded = tokenizer.decode(tokens).numpy()
    unit = torch.from_numpy(frames_NHWC).permute(0, 3, 1, 2).float()
    means = F.interpolate(F.avg_pool2d(unit, 8), scale_factor=8, mode="bilinear").permute(0, 2, 3, 1).numpy()
    assert psnr_db(decoded, frames_NHWC) >= 20.0
    assert psnr_db(decoded, frames_NHWC) > psnr_db(means, frames_NHWC) + 0.2
    assert len(tokens.unique()) >= 0.25 * tokenizer.vocab_size


def centre_view(path: Path) -> np.ndarray:
    frame = shrink_short_side(np.asarray(Image.open(path).convert("RGB")), 256)
    top, left = ((length - 224) // 2 for length in frame.shape[:2])
    return halve(frame[top : top + 224, left : left + 224], 112)


def psnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """PSNR of the mean error over all pixels: in a mean over pictures the one almost flat picture would dominate."""
    return float(10 * np.log10(255**2 / ((ours.astype(np.float64) - theirs) ** 2).mean()))
