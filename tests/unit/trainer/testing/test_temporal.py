"""Table 2: each line equals the result of `evaluate`, and the drop of a class is that of its videos."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bevt_core.models.build import build_classifier
from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import save_weights
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard
from schemas.recipes import ClipSampling, EvalViews
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys
from trainer.clips.sources import StoreClips
from trainer.distributed.launch import launch
from trainer.testing.evaluate import evaluate
from trainer.testing.temporal import ClassRow, Row, analyse_temporal, draw, table_of

SIZES: dict[str, Any] = {
    "embed_dim": 12,
    "depths": (1, 1),
    "num_heads": (2, 2),
    "window": (2, 2, 2),
    "patch": (2, 8, 8),
}


def random_classifier(folder: Path) -> Path:
    torch.manual_seed(0)
    model = build_classifier(**SIZES, num_classes=2)
    torch.nn.init.normal_(model.fc.weight, std=1.0)
    save_weights(folder / "weights.safetensors", model)
    sampling, views = ClipSampling(kind="dense", frames=4, interval=1), EvalViews(clips=1, crops=1, short_side_px=32)
    card = ClassifierCard(title="test", classes=("no", "yes"), sampling=sampling, crop_px=32, views=views)
    write_record(folder / "classifier.json", card)
    return folder


@pytest.mark.slow
def test_the_table_is_what_evaluate_says(tmp_path: Path, json_keys: CheckKeys) -> None:
    data = StoreClips(make_token_set(tmp_path / "set", num_samples=6).frames.path)
    run = random_classifier(tmp_path / "run")
    found = launch(analyse_temporal, 2, run, data, tmp_path / "out", seeds=2)
    json_keys("analyse temporal", found)
    again = [evaluate(run, data, temporal="shuffle", seed=seed)["top1"] for seed in (0, 1)]
    assert found["shuffle"]["top1"] == pytest.approx(sum(again) / 2)
    assert found["shuffle"]["drop"] == pytest.approx(found["normal"]["top1"] - sum(again) / 2)
    lines = list(csv.DictReader((tmp_path / "out" / "temporal_per_class.csv").open()))
    assert sum(int(line["videos"]) * float(line["normal"]) for line in lines) == pytest.approx(
        6 * found["normal"]["top1"]
    )
    assert {line["name"] for line in lines} == {"no", "yes"}
    assert Image.open(io.BytesIO((tmp_path / "out" / "temporal.png").read_bytes())).width > 400
    assert analyse_temporal(run, data, tmp_path / "out", seeds=2) == found
    with pytest.raises(UserError, match="0 seeds"):
        analyse_temporal(run, data, tmp_path / "none", seeds=0)


def test_notes_are_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if all evaluations are stored."""
    data = StoreClips(make_token_set(tmp_path / "set", num_samples=2).frames.path)
    run, out = random_classifier(tmp_path / "run"), tmp_path / "out"
    printed = []
    for _ in range(2):
        analyse_temporal(run, data, out, seeds=1)
        printed.append([line for line in capsys.readouterr().err.splitlines() if line.startswith(("note", "warning"))])
    notes = [f"note: unknown whether tested clips were trained on: {run} has no clips.parquet"]
    assert printed[0] == printed[1][:1] == notes
    assert [line.partition(": stored result of ")[0] for line in printed[1][1:]] == [f"note: {out}"]


def test_class_names_are_plain_text() -> None:
    rows = [Row("normal", 1, 0.8, None, 1.0, 0.8, 0.0)]
    assert draw(rows, [ClassRow(r"cost $\frac$", 2, 0.5, 0.5, 0.5)]).startswith(b"\x89PNG")


def test_spread_is_over_seeds() -> None:
    def result(top1: float) -> dict:
        return {"top1": top1, "top5": 1.0, "mean_class": top1}

    rows = table_of({"normal": [result(0.8)], "shuffle": [result(0.2), result(0.4)]})
    assert rows[0] == Row("normal", 1, 0.8, None, 1.0, 0.8, 0.0)
    assert rows[1].top1 == pytest.approx(0.3) and rows[1].drop == pytest.approx(0.5)
    assert rows[1].top1_deviation == pytest.approx(0.02**0.5)
