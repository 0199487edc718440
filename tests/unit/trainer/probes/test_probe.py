"""Probes: they find the classes in features, at chance without any, and get a pretraining run's clips by default."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bevt_core.models.stems import normalise
from bevt_core.rng import rng_for
from schemas.errors import UserError
from schemas.evaluation import FEATURES_SCHEMA
from tests.support.builders import make_token_set
from tests.support.pretraining import pretraining_run
from trainer.clips.multi_view import Chunk, ViewChunks
from trainer.clips.sources import StoreClips
from trainer.distributed.launch import launch
from trainer.probes.probe import PROBES, FeatureFile, probe
from trainer.testing.extract import extract
from trainer.testing.frozen import open_frozen

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
POSITIONS = {"pooled": 1, "positions": 6}


def write_features(path: Path, num_videos: int, positions: int, strength: float) -> FeatureFile:
    """Noise, plus `strength` in the channel of its class at one random position of each video."""
    rows = []
    for video in range(num_videos):
        rng, label = rng_for(path.name, video), video % 3
        features_PC = rng.normal(size=(positions, 32)).astype(np.float32)
        features_PC[rng.integers(positions), label] += strength
        rows.append({"video": str(video), "label": label, "features": list(features_PC), "error": None})
    rows[:0] = [{"video": "bad", "label": 0, "features": None, "error": "empty"}] * 32  # a row group without any
    rows.insert(40, {"video": "bad", "label": 0, "features": None, "error": "empty"})
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES_SCHEMA), path, row_group_size=32)
    return FeatureFile(path)


@pytest.mark.parametrize("kind", PROBES)
def test_a_probe_finds_what_features_tell(kind: str, tmp_path: Path) -> None:
    accuracy = {}
    for strength in (0.0, 20.0):
        train, test = (
            write_features(tmp_path / f"{name}-{strength}.parquet", count, POSITIONS[PROBES[kind].level], strength)
            for name, count in (("train", 240), ("test", 120))
        )
        answers, label_N = PROBES[kind].predict(train, test, 3, 0, torch.device("cpu"))
        assert len(answers) == len(label_N) == 120
        accuracy[strength] = float((answers == label_N).double().mean())
    assert accuracy[20.0] > 0.95 and accuracy[0.0] < 0.5


def test_a_pretraining_run_says_what_it_looks_at(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=4)
    model = pretraining_run(tmp_path / "run", tokens)
    data = StoreClips(tokens.frames.path)
    extract(tmp_path / "run", data, tmp_path / "features.parquet", level="positions")
    extracted = FeatureFile(tmp_path / "features.parquet")
    features_NPC = torch.cat([extracted[part][0] for part in range(len(extracted))])
    _, plan = open_frozen(tmp_path / "run", None, None, None)
    assert plan.sampling.frames == 4 and plan.crop_px == 64
    views_NTHWC = ViewChunks(data, plan, [Chunk(0, 0, 4)])[0]["views"]
    with torch.no_grad():
        last_BTHWC = model.norm(model.encoders["shared"](model.stems["video"](normalise(views_NTHWC)))[-1])
    torch.testing.assert_close(features_NPC, last_BTHWC.flatten(1, 3))
    with pytest.raises(UserError, match="need a single view"):
        extract(tmp_path / "run", data, tmp_path / "other.parquet", level="positions", clips=2)


def test_a_pretraining_run_without_its_tokens_asks_for_a_recipe(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=4)
    pretraining_run(tmp_path / "run", tokens)
    tokens.path.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="give a fine-tuning `recipe`"):
        open_frozen(tmp_path / "run", None, None, None)


def test_probe_end_to_end(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=8)
    pretraining_run(tmp_path / "run", tokens)
    data = StoreClips(tokens.frames.path)
    train, test = data.subset(data.items[:6]), data.subset(data.items[6:])
    first = probe(tmp_path / "run", train, test, tmp_path / "out")
    assert first.keys() == {"knn", "linear"} and first["linear"]["num_videos"] == 2
    assert probe(tmp_path / "run", train, test, tmp_path / "out") == first
    with pytest.raises(UserError, match="did you mean 'linear'"):
        probe(tmp_path / "run", train, test, tmp_path / "out", kinds=["liner"])


@pytest.mark.slow
def test_two_processes_probe_as_one_does(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path / "set", num_samples=8)
    pretraining_run(tmp_path / "run", tokens)
    data = StoreClips(tokens.frames.path)
    halves = data.subset(data.items[:6]), data.subset(data.items[6:])
    together = launch(probe, 2, tmp_path / "run", *halves, tmp_path / "together")
    assert together == probe(tmp_path / "run", *halves, tmp_path / "alone")
