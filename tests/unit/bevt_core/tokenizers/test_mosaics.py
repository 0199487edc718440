"""Pictures of tokens without a decoder: each as the mean patch of the frames that have it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.mosaics import UNSEEN, Mosaic, decoder_for, mosaic_of
from bevt_core.views.replay import apply_view, halve
from tests.support.builders import make_token_set


def test_a_patch_is_the_mean_of_the_patches_with_its_id_and_grey_without_any() -> None:
    dark, light = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 30, np.uint8)
    light[:2, :2] = [200, 0, 0]
    ids = np.array([[0, 1], [1, 1]])
    mosaic = mosaic_of([(dark, ids), (light, ids)], vocab_size=3)
    assert mosaic.patches_VSSC.shape == (3, 2, 2, 3)
    assert mosaic.patches_VSSC[:, 0, 0].tolist() == [[105, 5, 5], [20, 20, 20], [UNSEEN] * 3]
    drawn = mosaic.decode(torch.tensor([[[1, 0], [2, 1]]]))
    assert drawn.shape == (1, 4, 4, 3) and drawn.dtype == torch.uint8
    assert drawn[0, ::2, ::2, 0].tolist() == [[20, 105], [UNSEEN, 20]]


def test_without_frames_every_token_is_grey() -> None:
    assert mosaic_of([], vocab_size=2).decode(torch.zeros(1, 2, 2, dtype=torch.int64)).unique().tolist() == [UNSEEN]


def test_stored_tokens_and_encoded_frames_give_mosaics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer("dvae-nano")
    token_set = make_token_set(tmp_path, num_samples=8, sources_per_part=2, frames=2, tokenizer=tokenizer, crop_px=64)
    assert decoder_for(tokenizer, token_set) is tokenizer
    monkeypatch.setattr(type(tokenizer), "can_decode", property(lambda self: False))
    stored, encoded = (decoder_for(tokenizer, data) for data in (token_set, token_set.frames))
    assert isinstance(stored, Mosaic) and isinstance(encoded, Mosaic)
    view = token_set.read_view(0, 0)
    frame = token_set.frames.read_frames(0, 0, 1)[0]
    shown = stored.decode(torch.from_numpy(view.tokens[0][:1].astype(np.int64)))[0].numpy()
    true = halve(apply_view(frame, view.views[0]), tokenizer.input_px)
    other = halve(apply_view(token_set.frames.read_frames(1, 0, 1)[0], view.views[0]), tokenizer.input_px)
    error, chance = (np.abs(shown.astype(int) - against).mean() for against in (true, other))
    assert error < 0.8 * chance  # 0.69 measured
    assert encoded.patches_VSSC.shape == stored.patches_VSSC.shape == (64, 8, 8, 3)
