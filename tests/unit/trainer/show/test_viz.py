"""Pictures of one clip: the files are complete and show what the command reports."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bevt_core.masking import MASKERS, STRATEGIES
from bevt_core.models.attention_maps import attention_maps
from bevt_core.models.build import build_classifier
from bevt_core.models.stems import normalise
from bevt_core.reporting.pictures import GAP_PX, LINE_PX, MARK, broken, film, heat, heat_scale, mp4, sheet
from cli import app
from schemas.errors import UserError
from schemas.recipes import PretrainRecipe
from schemas.recipes.loading import load_recipe_of
from tests.support.builders import make_token_set
from tests.support.frames import GreyTokenizer
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from tests.support.pretraining import pretraining_run
from trainer.recipes import TRAINER_RECIPES
from trainer.show import viz
from trainer.show.viz import viz_attention, viz_predict

SIZES: dict[str, Any] = {
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window": (2, 4, 4),
    "patch": (2, 4, 4),
}
NANO = ["--recipe", "nano_joint", "--crop-px", "64", "--interval", "1"]


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_masks_of_every_strategy(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_frames(12, 80, 96))
    ran = CliRunner().invoke(app, ["viz", "masks", "--sample", str(clip), "--out", str(tmp_path / "masks"), *NANO])
    assert ran.exit_code == 0, ran.output
    assert STRATEGIES.keys() == {*MASKERS, "block"}
    picture = Image.open(tmp_path / "masks.png")
    assert picture.height > picture.width * 0.5 and len(frames_of(tmp_path / "masks.mp4")) == 8
    assert "repeat" not in ran.output
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    ran = CliRunner().invoke(app, ["viz", "masks", "--sample", str(tmp_path / "bad.mp4"), *NANO])
    assert ran.exit_code != 0


def test_masks_have_the_recipes_smallest_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the image stream where the video stream hides whole frames."""
    clip, seen, block = write_video(tmp_path / "clip.mp4", moving_frames(8, 80, 96)), [], STRATEGIES["block"]
    monkeypatch.setitem(STRATEGIES, "block", lambda ratio, smallest: seen.append(smallest) or block(ratio, smallest))
    for setting in ("streams.image.mask.min_block=3", "streams.image.mask.min_block=5"):
        recipe = load_recipe_of(PretrainRecipe, "nano_joint", TRAINER_RECIPES, [setting])
        viz.viz_masks(recipe, clip, tmp_path / "masks", crop_px=64, interval=1)
    assert seen == [3, 5]


def test_masks_say_where_a_clip_loops(tmp_path: Path, json_keys: CheckKeys) -> None:
    """In the result, in a note, and in both pictures, where the repeated frames of the first row have a border."""
    clip = write_video(tmp_path / "short.mp4", moving_frames(6, 80, 96))
    options = ["viz", "masks", "--sample", str(clip), "--out", str(tmp_path / "masks"), *NANO, "--json"]
    ran = CliRunner().invoke(app, options)
    made = json.loads(ran.stdout.splitlines()[-1])
    assert made["repeated_frames"] == [7, 8]
    json_keys("viz masks", made)
    assert "note: short.mp4: only 6 frames, so frames 7 to 8 of the clip's 8 repeat (orange border)" in ran.stderr
    ran = CliRunner().invoke(app, options[:-1])
    assert ran.output.count("repeat") == 1 and "7 to 8" in ran.stderr
    page = np.asarray(Image.open(tmp_path / "masks.png")).astype(int)
    row = GAP_PX + LINE_PX + 80  # the middle of the first row's frames, 160 px high
    borders = [tuple(page[row, GAP_PX + column * (160 + GAP_PX) + 1]) == MARK for column in range(8)]
    assert borders == [False] * 6 + [True] * 2
    first = [
        frame[100:200, GAP_PX + 1 : GAP_PX + 5].reshape(-1, 3).mean(axis=0)
        for frame in frames_of(tmp_path / "masks.mp4")
    ]
    assert [bool(np.abs(colour - MARK).max() < 40) for colour in first] == [False] * 6 + [True] * 2


def test_a_loop_is_said_of_pools_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a run's own samples: predictions from a token set, attention over a frame store."""
    tokens = make_token_set(tmp_path / "set", num_samples=4, frames=3)
    pretraining_run(tmp_path / "run", tokens)
    monkeypatch.setattr(viz, "tokenizer_of", lambda *_: Path())
    monkeypatch.setattr(viz, "load_tokenizer", lambda _: grey_tokenizer())
    assert viz_predict(tmp_path / "run", tmp_path / "out")["repeated_frames"] == [4]
    made = viz_attention(tmp_path / "run", "0001.mp4", tmp_path / "map", frames=tokens.frames.path)
    assert made["repeated_frames"] == [4]


def grey_tokenizer() -> GreyTokenizer:
    decoder = GreyTokenizer()
    decoder.name, decoder.weights_sha256 = "test", "0" * 64  # type: ignore[attr-defined]
    return decoder


def test_predictions_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=4)
    pretraining_run(tmp_path / "run", tokens)
    decoder = grey_tokenizer()
    monkeypatch.setattr(viz, "tokenizer_of", lambda *_: Path())
    monkeypatch.setattr(viz, "load_tokenizer", lambda _: decoder)
    made = viz_predict(tmp_path / "run", tmp_path / "out", sample="0002.mp4")
    json_keys("viz predict", made)
    assert made["sample"] == "0002.mp4" and len(frames_of(tmp_path / "out.mp4")) == 4
    with pytest.raises(UserError, match=r"did you mean '0002\.mp4'"):
        viz_predict(tmp_path / "run", tmp_path / "out", sample="002.mp4")
    decoder.weights_sha256 = "1" * 64  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="made with 000000000000"):
        viz_predict(tmp_path / "run", tmp_path / "out")
    with pytest.raises(UserError, match="no image stream"):
        viz_predict(tmp_path / "run", tmp_path / "out", stream="image")


def test_attention_of_a_run(tmp_path: Path, json_keys: CheckKeys) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=4)
    pretraining_run(tmp_path / "run", tokens)
    made = viz_attention(tmp_path / "run", "0001.mp4", tmp_path / "map", frames=tokens.frames.path)
    json_keys("viz attention", made)
    assert len(made["maps"]) == 3 and Image.open(tmp_path / "map.png").width > 600
    with pytest.raises(UserError, match=r"no sample '9\.mp4'"):
        viz_attention(tmp_path / "run", "9.mp4", tmp_path / "map", frames=tokens.frames.path)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match="give a video that can be read"):
        viz_attention(tmp_path / "run", str(tmp_path / "bad.mp4"), tmp_path / "map")


def test_a_film_has_its_frames() -> None:
    frames = [np.full((33, 48, 3), 40 * at, np.uint8) for at in range(4)]
    with av.open(io.BytesIO(mp4(frames, fps=4))) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in shown] == [(32, 48, 3)] * 4
    assert all(abs(float(frame.mean()) - 40 * at) < 6 for at, frame in enumerate(shown))


def test_heat_is_on_a_fixed_scale() -> None:
    """The colour of a ratio does not depend on the others: grey for 1, bluer below, redder above."""
    ratios = np.array([0.25, 0.5, 1.0, 2.0, 4.0])[None, None]
    frame = np.full((1, 1, 5, 3), 128, np.uint8)
    colours = heat(frame, ratios)[0, 0].astype(int)
    assert (np.diff(colours[:, 0] - colours[:, 2]) > 0).all() and np.ptp(colours[2]) <= 1
    for at, ratio in enumerate(ratios[0, 0]):
        alone = heat(frame, np.full_like(ratios, ratio))
        assert (alone == colours[at]).all()
    beyond = heat(frame, ratios**2)[0, 0]
    assert (beyond[[0, 1, 3, 4]] == colours[[0, 0, 4, 4]]).all()


def test_attention_of_random_weights_looks_flat() -> None:
    """And attention of weights that favour some positions does not."""
    torch.manual_seed(0)
    model = build_classifier(**SIZES, num_classes=2).eval()
    frames = np.stack(moving_frames(4, 64, 64))
    colourful = []
    for gain in (1.0, 30.0):
        with torch.no_grad():
            for block in (block for stage in model.encoder.stages for block in stage.blocks):  # type: ignore[union-attr]
                block.attn.qkv.weight.mul_(gain)
        for map_BTHW in attention_maps(model, normalise(torch.from_numpy(frames[None]))).values():
            sides = tuple(size // cells for size, cells in zip(frames.shape, map_BTHW[0].shape, strict=False))
            drawn = heat(frames, np.kron(map_BTHW[0].numpy(), np.ones(sides))).astype(int)
            colourful.append(float(np.percentile(np.ptp(drawn, axis=-1), 95)))
    half = len(colourful) // 2
    assert max(colourful[:half]) < 20 < min(colourful[half:]), colourful


def test_the_scale_names_its_ratios_and_fits_any_width() -> None:
    for width_px in (168, 1316):
        scale = heat_scale("attention, times that of uniform attention", width_px)
        assert scale.shape[1] == width_px
        ink = np.flatnonzero((scale[14:] < 100).all(axis=-1).any(axis=0))
        assert ink.min() >= GAP_PX - 1 and ink.max() <= width_px - GAP_PX


@pytest.mark.parametrize("label", ["", "short", "many words " * 30, "x" * 300, "videos/a folder/" * 20])
def test_labels_are_never_cut(label: str) -> None:
    """A sheet as narrow as one frame breaks its labels into lines, and a film's cells stay in line."""
    lines = broken([label, "other"], 96)[0].split("\n")
    assert "".join(lines).replace(" ", "") == label.replace(" ", "")
    narrow, wide = (sheet([[np.zeros((8, 8, 3), np.uint8)]], [label], px) for px in (96, 480))
    assert ((narrow < 100).all(axis=-1).any(axis=0)[-GAP_PX:]).sum() == 0
    assert narrow.shape[0] - 96 >= wide.shape[0] - 480
    assert len({frame.shape for frame in film([[narrow], [narrow]], [label, "b"])}) == 1


def test_a_folder_of_class_folders_is_not_a_clip(tmp_path: Path) -> None:
    (tmp_path / "Diving").mkdir()
    recipe = load_recipe_of(PretrainRecipe, "nano_video", TRAINER_RECIPES)
    with pytest.raises(UserError, match="a folder without numbered pictures; give a video, or a folder of its frames"):
        viz.viz_masks(recipe, tmp_path, tmp_path / "masks", crop_px=64, interval=2)
