"""The public functions and datasets, imported as users do, give what the commands and the trainer read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import cli
from bevt_core import FrameStore, TokenSet, load_tokenizer, read_sample, read_view
from bevt_core.views.replay import halve
from pipeline import list_sources
from schemas.errors import UserError
from tests.support.builders import make_token_set, smooth_frame
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer import (
    AugmentedClips,
    FileClips,
    LabelledClips,
    StoreClips,
    TokenClips,
    features,
    file_features,
    load_finetune_recipe,
    load_pretrain_recipe,
    load_run,
    run_finetuning,
    run_pretraining,
)

SMALL = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "encoder.window=[2,4,4]"]
LOOP = ["loop.num_workers=0", "loop.max_steps=1"]
FINETUNE = [*SMALL, *LOOP, "global_batch=4", "sampling.frames=4"]
PRETRAIN = [*(f"model.{key}" for key in SMALL), *LOOP, "streams.video.global_batch=4", "streams.video.clip_frames=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/`, whose tokens are those of `tokenizer/`, `videos/`, and the runs `pretrained` and `mine`."""
    place = tmp_path_factory.mktemp("api")
    tokenizer = load_tokenizer(save_tiny_tokenizer(place / "tokenizer"))
    tokens = make_token_set(place / "data", num_samples=8, sources_per_part=4, frames=6, tokenizer=tokenizer)
    for name in ("no", "yes"):
        write_video(place / "videos" / name / f"{name}.mp4", moving_frames(8))
    recipe = load_pretrain_recipe("nano_video", [f"streams.video.tokens={tokens.path}", *PRETRAIN])
    run_pretraining(recipe, place / "pretrained")
    clips = StoreClips(tokens.frames.path)
    run_finetuning(load_finetune_recipe("nano_finetune", FINETUNE), clips, clips, place / "mine")
    return place


def test_samples_and_views_of_a_dataset(place: Path) -> None:
    store, tokens = FrameStore(place / "data" / "frames"), TokenSet(place / "data" / "tokens" / "test-v2")
    by_number, by_id = read_sample(store, 5), read_sample(store, "0005.mp4")
    assert (by_number.sample_id, by_number.label, by_number.class_name) == ("0005.mp4", 1, "yes")
    assert by_number.frames_THWC.dtype == np.uint8 and by_number.frames_THWC.shape == (6, 72, 96, 3)
    assert np.array_equal(by_number.frames_THWC, by_id.frames_THWC)
    assert np.abs(by_number.frames_THWC[2].astype(int) - smooth_frame(("0005.mp4", 2))).mean() < 20  # JPEG
    assert by_number.times_s.tolist() == [i / 25 for i in range(6)]
    tokenizer = load_tokenizer(place / "tokenizer")
    for view in range(2):
        found = read_view(tokens, 5, view)
        assert found.clip_THWC.shape == (6, 64, 64, 3) and found.view.crop_px == 64
        halves = torch.from_numpy(np.stack([halve(frame_HWC, 32) for frame_HWC in found.clip_THWC]))
        assert np.array_equal(tokenizer.encode(halves).numpy(), found.tokens_Thw)
    assert not np.array_equal(read_view(tokens, 5, 0).clip_THWC, read_view(tokens, 5, 1).clip_THWC)


@pytest.mark.parametrize(
    ("sample", "view", "message"),
    [
        (8, 0, "sample 8, expected 0 to 7"),
        (-1, 0, "sample -1, expected 0 to 7"),
        ("no.mp4", 0, "no sample 'no.mp4'"),
        (0, 2, "view 2, expected 0 to 1"),
    ],
)
def test_a_sample_or_view_that_is_not_there(place: Path, sample: int | str, view: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_view(TokenSet(place / "data" / "tokens" / "test-v2"), sample, view)


def test_token_clips_are_those_of_the_set_for_any_workers(place: Path) -> None:
    tokens = TokenSet(place / "data" / "tokens" / "test-v2")
    mask = load_pretrain_recipe("nano_video").streams["video"].mask
    clips = TokenClips(tokens, clip_frames=6, mask=mask)
    stored = {view: read_view(tokens, 3, view) for view in range(2)}
    clip, ids, hidden = clips[3]
    view = next(view for view, found in stored.items() if np.array_equal(found.clip_THWC, clip))
    assert np.array_equal(ids, stored[view].tokens_Thw)
    assert hidden.shape == (3, 4, 4) and hidden.dtype == torch.bool and 0 < hidden.sum() < hidden.numel()
    other = TokenClips(tokens, clip_frames=6, mask=mask, epoch=1)[3]
    assert np.array_equal(other.clip, stored[1 - view].clip_THWC)  # in as many epochs, each view once
    here, workers = (list(DataLoader(clips, batch_size=4, num_workers=number)) for number in (0, 2))
    for one, two in zip(here, workers, strict=True):
        assert one.tokens.shape == (4, 6, 4, 4)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len(list(clips)) == len(clips) == 8


def test_labelled_clips_of_a_store_and_of_files(place: Path, tmp_path: Path) -> None:
    recipe = load_finetune_recipe("nano_finetune", FINETUNE)
    stored = StoreClips(place / "data" / "frames")
    labels = [int(label) for _, label in DataLoader(LabelledClips(stored, recipe.sampling, 64), batch_size=None)]
    assert labels == [0, 1] * 4
    one, two, later = (AugmentedClips(stored, recipe, epoch) for epoch in (0, 0, 1))
    assert torch.equal(one[2].clip, two[2].clip) and not torch.equal(one[2].clip, later[2].clip)
    assert one[2].clip.shape == (4, 64, 64, 3) and one[2].label == 0

    bad = write_video(tmp_path / "no" / "a.mp4", moving_frames(8)).with_name("bad.mp4")
    bad.write_bytes(b"no video")
    listing = list_sources("folder", str(tmp_path), "train")
    files = FileClips(tmp_path, tuple(listing.items), listing.classes)
    for clips in (LabelledClips(files, recipe.sampling, 64), AugmentedClips(files, recipe)):
        assert clips[0].clip.shape == (4, 64, 64, 3)
        with pytest.raises(UserError, match=r"no/bad\.mp4: .*"):
            list(DataLoader(clips, batch_size=None, num_workers=1))


def test_features_of_clips_are_those_of_their_files(place: Path) -> None:
    recipe = load_finetune_recipe("nano_finetune", FINETUNE)
    listing = list_sources("folder", place / "videos", "train")
    files = FileClips(place / "videos", tuple(listing.items), listing.classes)
    names = [place / "videos" / item.source for item in listing.items]
    for name in ("pretrained", "mine"):
        run = load_run(place / name)
        clips_BTHWC = torch.stack([clip for clip, _ in LabelledClips(files, recipe.sampling, 64)])
        assert features(run, clips_BTHWC).shape == (2, 64)
        torch.testing.assert_close(features(run, clips_BTHWC), file_features(run, names), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"float32 \[2, 4, 64, 64, 3\], expected uint8"):
        features(run, clips_BTHWC.float())
    with pytest.raises(UserError, match="T a multiple of 2"):
        features(run, clips_BTHWC[:, :3])
    with pytest.raises(UserError, match=r"gone\.mp4: "):
        file_features(run, [place / "gone.mp4"])


def test_a_run_and_its_exported_folder_are_the_same_model(place: Path) -> None:
    assert CliRunner().invoke(cli.app, ["export", str(place / "mine"), "--out", str(place / "hub")]).exception is None
    run, hub, pretrained = (load_run(place / name) for name in ("mine", "hub", "pretrained"))
    clips_BTHWC = torch.randint(0, 256, (1, 4, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(features(run, clips_BTHWC), features(hub, clips_BTHWC))
    assert run.card == hub.card and run.card is not None and run.card.classes == ("no", "yes")
    assert run.recipe == load_finetune_recipe("nano_finetune", FINETUNE) and hub.recipe is None
    assert pretrained.card is None and pretrained.recipe is not None and not pretrained.model.training
    with pytest.raises(UserError, match="expected a finished run"):
        load_run(place / "videos")
