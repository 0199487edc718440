"""Ids against the `dall-e` package's own encoder, on random weights: equal, every one, in float32."""

from pathlib import Path

import pytest
import torch
from dall_e import Decoder, Encoder, map_pixels, unmap_pixels
from safetensors.torch import load_file
from torch.nn import functional as F

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.dvae.networks import sizes_of
from bevt_core.tokenizers.published.dalle import convert_pickles


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """A random encoder, pickled as the official file is, and the folder of the tokenizer made from it."""
    folder = tmp_path_factory.mktemp("dalle")
    torch.manual_seed(0)
    encoder = Encoder(n_hid=64, n_blk_per_group=2, vocab_size=1024).eval()
    torch.save(encoder, folder / "encoder.pkl")
    convert_pickles(folder / "encoder.pkl", None, folder / "dalle")
    return encoder, folder / "dalle"


def frames(count: int, seed: int = 1) -> torch.Tensor:
    """Smooth random pictures: closer to photographs than white noise, and with fewer equal logits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 14, 14), generator=generator)
    fine = F.interpolate(coarse, size=(112, 112), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_ids_equal_the_packages(pair: tuple[Encoder, Path]) -> None:
    encoder, folder = pair
    tokenizer = load_tokenizer(folder)
    pictures = frames(5)
    with torch.no_grad():
        theirs = encoder(map_pixels(pictures.permute(0, 3, 1, 2).float() / 255)).argmax(dim=1)
    ours = tokenizer.encode(pictures)
    assert ours.dtype == torch.int64
    assert torch.equal(ours, theirs)
    assert len(ours.unique()) > 20  # not a constant


def test_the_stored_file_loads_into_the_package_as_it_is(pair: tuple[Encoder, Path]) -> None:
    encoder, folder = pair
    state = load_file(folder / "encoder.safetensors")
    sizes = sizes_of(state, None)
    fresh = Encoder(n_hid=sizes.n_hid, n_blk_per_group=sizes.n_blk_per_group, vocab_size=sizes.vocab_size)
    fresh.load_state_dict(state, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), encoder.parameters(), strict=True))


def test_frames_equal_the_packages(tmp_path: Path) -> None:
    torch.manual_seed(2)
    encoder = Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512)
    decoder = Decoder(n_init=64, n_hid=64, n_blk_per_group=1, vocab_size=512).eval()
    torch.save(encoder, tmp_path / "encoder.pkl")
    torch.save(decoder, tmp_path / "decoder.pkl")
    convert_pickles(tmp_path / "encoder.pkl", tmp_path / "decoder.pkl", tmp_path / "out")
    ids = torch.randint(0, 512, (3, 14, 14), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        stats = decoder(F.one_hot(ids, 512).permute(0, 3, 1, 2).float())
        theirs = (unmap_pixels(torch.sigmoid(stats[:, :3])) * 255).round().permute(0, 2, 3, 1)
    ours = load_tokenizer(tmp_path / "out").decode(ids)
    assert ours.shape == (3, 112, 112, 3)
    assert (ours.float() - theirs).abs().max() <= 1  # a value beside a half may round to either side
    assert (ours.float() != theirs).float().mean() < 1e-3
