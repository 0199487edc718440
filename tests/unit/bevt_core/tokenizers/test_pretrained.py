"""The tokenizer included in the package: small, offline, and better than the mean colour of every block."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bevt_core.tokenizers import PRETRAINED, load_tokenizer
from bevt_core.tokenizers.base import to_uint8, to_unit
from bevt_core.tokenizers.description import read_description
from bevt_core.tokenizers.quality import mean_squared_error, measure, psnr_db
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
    """A seventh of the ImageNet validation pictures, centre view; CARD.md has the figures of all."""
    frames_NHWC = unseen_pictures(shared_data, every=7)
    measured = measure(load_tokenizer("dvae-small"), frames_NHWC)
    means_NChw = F.avg_pool2d(to_unit(frames_NHWC), 8)
    means_NHWC = to_uint8(F.interpolate(means_NChw, scale_factor=8, mode="bicubic"))
    assert measured["psnr_pooled_db"] > pooled_psnr_db(means_NHWC, frames_NHWC) + 1.0
    assert measured["codebook_used_share"] >= 0.5


def test_unseen_pictures_are_reconstructed_as_the_card_claims(shared_data: Path) -> None:
    measured = measure(load_tokenizer("dvae-small"), unseen_pictures(shared_data, every=1))
    assert measured["psnr_db"] >= 21.5
    assert measured["codebook_used_share"] >= 0.8


def unseen_pictures(shared_data: Path, every: int) -> torch.Tensor:
    paths = sorted(shared_data.glob("imagenet/val/*/*"))[::every]
    return torch.from_numpy(np.stack([centre_view(path) for path in paths]))


def centre_view(path: Path) -> np.ndarray:
    frame = shrink_short_side(np.asarray(Image.open(path).convert("RGB")), 256)
    top, left = ((length - 224) // 2 for length in frame.shape[:2])
    return halve(frame[top : top + 224, left : left + 224], 112)


def pooled_psnr_db(ours_NHWC: torch.Tensor, theirs_NHWC: torch.Tensor) -> float:
    return psnr_db(mean_squared_error(ours_NHWC.numpy(), theirs_NHWC.numpy()))
