"""`bevt inspect`: its picture without a decoder, and what it shows of token sets."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.description import DESCRIPTION
from pipeline.look.sample import _did_you_mean, inspect_dataset
from tests.support.builders import make_token_set
from tests.support.tiny_jobs import save_tiny_tokenizer


@pytest.fixture
def encoder_only(tmp_path: Path) -> Path:
    folder = save_tiny_tokenizer(tmp_path / "whole")
    (folder / "decoder.safetensors").unlink()
    card = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**card, "decoder_sha256": None}))
    return folder


def test_a_tokenizer_without_decoder_draws_tokens_as_mean_patches(
    encoder_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(encoder_only)
    make_token_set(tmp_path / "set", num_samples=2, tokenizer=tokenizer)
    picture = tmp_path / "sheet.png"
    inspect_dataset(tmp_path / "set", picture=picture, tokenizer=str(encoder_only))
    assert Image.open(picture).width == 12 * 112  # four frames, each stored, as a view, and as tokens
    assert "tokenizer dvae has no decoder; a token is drawn as the mean of its patches" in capsys.readouterr().err


def test_a_missing_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_token_set(tmp_path, num_samples=2)
    inspect_dataset(tmp_path, picture=tmp_path / "sheet.png")
    assert "no decoded tokens are drawn: no tokenizer with the weights" in capsys.readouterr().err


def test_a_dataset_with_many_facts_shows_the_views_of_its_sets(tmp_path: Path) -> None:
    make_token_set(tmp_path, num_samples=2, num_views=3)
    shutil.copytree(tmp_path / "tokens" / "test-v3", tmp_path / "tokens" / "other")
    shown = CliRunner().invoke(cli.app, ["inspect", str(tmp_path)], catch_exceptions=False).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["tokenizer", "vocab_size", "grid", "dtype", "views"] in lines
    assert [line[-1] for line in lines if line[0] in ("other", "test-v3")] == ["3", "3"]


def test_part_of_an_id_finds_the_first_sample_that_contains_it() -> None:
    """As the name of a source that gave several samples, or a video's id."""
    ids = ["train/ab_000001_000011.mp4#0001", "train/ab_000001_000011.mp4#0000", "train/cd.mp4"]
    for wanted in ("train/ab_000001_000011.mp4", "ab"):
        assert _did_you_mean(wanted, ids) == "did you mean 'train/ab_000001_000011.mp4#0000'? "
    assert _did_you_mean("train/cf.mp4", ids) == "did you mean 'train/cd.mp4'? "
