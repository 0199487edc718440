"""A fine-tuned run leaves the project: Hugging Face folder with a model card, and the README's lines of Python."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from schemas.recipes.loading import load_recipe
from tests.conftest import REPO
from tests.support.builders import make_token_set
from tests.support.media import moving_frames, write_video
from trainer import evaluate, predict
from trainer.clips.sources import StoreClips
from trainer.clips.split import split_items
from trainer.finetune.stage import finetune
from trainer.recipes import TRAINER_RECIPES
from trainer.runs.directory import read_run
from trainer.show.model_card import without_folders

TINY = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "loop.num_workers=0"]
TINY += ["global_batch=4", "sampling.frames=4", "encoder.window=[2,4,4]", "loop.max_steps=1", "title=Mine | yours"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/mine`, its evaluation, and `videos/`."""
    place = tmp_path_factory.mktemp("place")
    source = StoreClips(make_token_set(place / "data", num_samples=12).frames.path)
    train, val = split_items(source.items, 0.25, seed=0)
    recipe = load_recipe("nano_finetune", TRAINER_RECIPES, TINY)
    finetune(recipe, source.subset(train), source.subset(val), place / "runs" / "mine")  # type: ignore[arg-type]
    evaluate(place / "runs" / "mine", source.subset(val), out=place / "runs" / "evaluation")
    write_video(place / "videos" / "clip.mp4", moving_frames(8))
    (place / "videos" / "bad.mp4").write_bytes(b"no video")
    return place


def export(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, ["export", *map(str, arguments)])
    return result.output if result.exception is None else str(result.exception)


def code_below(text: str, heading: str) -> str:
    block = re.search(rf"## {heading}\n.*?```python\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    return block.group(1)


def test_the_readmes_lines_run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    code = code_below((REPO / "README.md").read_text(), "In Python")
    assert len(code.strip().splitlines()) <= 5
    monkeypatch.chdir(place)
    exec(code, {})
    bad, clip = capsys.readouterr().out.splitlines()[-2:]
    assert bad.startswith("videos/bad.mp4 ") and "'name': 'yes', 'score': 0." in clip


def test_a_hub_folder_tells_where_it_comes_from(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, hub = place / "runs" / "mine", place / "hub"
    export(run, "--evaluation", place / "runs" / "evaluation", "--out", hub)
    assert {file.name for file in hub.iterdir()} == {
        "README.md",
        "classifier.json",
        "config.json",
        "model.safetensors",
    }
    card, (recipe, record) = (hub / "README.md").read_text(), read_run(run)
    assert card.startswith("---\nlibrary_name: bevt\n") and r"# Mine \| yours" in card
    assert "`bevt evaluate`" in card and "| views (clips x crops) | 1x1 |" in card
    assert str(place) not in card and f"| data: train | .../{Path(record.datasets['train'].path).name}, digest" in card
    for value in (record.recipe_digest, record.datasets["train"].digest, f"torch {record.versions['torch']}"):
        assert value in card
    assert "| epochs | 3, stopped after 1 step |" in card
    assert f"| peak learning rate | {recipe.optim.lr:g} |" in card  # type: ignore[union-attr]
    clip = str(place / "videos" / "clip.mp4")
    assert predict(hub, [clip]) == predict(run, [clip])
    (hub / "clip.mp4").symlink_to(clip)
    monkeypatch.chdir(hub)
    exec(code_below(card, "Use"), {})
    assert "clip.mp4 [{'name': " in capsys.readouterr().out
    assert "exists; give another --out" in export(run, "--out", hub)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("runs/joint", "runs/joint"),
        ("/home/me/runs/joint/", ".../joint"),
        ("/home/my name/runs/joint", ".../joint"),
        ("--out=/home/me/x", "--out=.../x"),
        ('streams.video.tokens="/data/me/tokens"', 'streams.video.tokens=".../tokens"'),
        ('frames=["/a/one","/a/two"]', 'frames=[".../one",".../two"]'),
        ("s3://bucket/set", "s3://bucket/set"),
        ("optim.lr=1e-4", "optim.lr=1e-4"),
    ],
)
def test_a_card_shows_no_folders_of_its_author(typed: str, shown: str) -> None:
    assert without_folders(typed) == shown


def test_the_time_limit_of_decoding_is_an_option(place: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "large.mp4", moving_frames(16, 720, 1280))  # a frame of it takes longer than the limit
    videos = [str(place / "runs" / "mine"), str(tmp_path / "large.mp4")]
    result = CliRunner().invoke(cli.app, ["predict", *videos, "--decode-timeout-s", "0.01", "--json"])
    assert "no answer within 0.01 s" in result.output


def test_weights_alone_say_that_nothing_is_known(place: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes((place / "runs" / "mine" / "weights.safetensors").read_bytes())
    export(tmp_path / "w.safetensors", "--out", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "unknown; the weights are not in a run's directory" in card and "load_run" in card
    assert "expected one of hub, program, onnx" in export(place / "runs/mine", "--format", "x", "--out", "x")
