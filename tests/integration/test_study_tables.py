"""The study's results: what is collected, the rule of the verdicts, and the tables and figures made from them."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from bevt_core.models.build import SWIN_SIZES, build_bevt
from tests.support.builders import make_token_set
from tests.support.study import study_module

masked, results, tables, verdicts, figures, sizes = (
    study_module(name) for name in ("masked", "results", "tables", "verdicts", "figures", "sizes")
)
Measured = verdicts.Measured


@pytest.mark.parametrize(
    ("first", "second", "videos", "word"),
    [
        ([0.80, 0.82, 0.81], [0.50, 0.52, 0.51], 384, "holds"),
        ([0.50, 0.52, 0.51], [0.80, 0.82, 0.81], 384, "does not"),
        ([0.80, 0.82, 0.81], [0.50, 0.52, 0.51], 10, "cannot be told at this size"),  # few test clips
        ([0.80, 0.40, 0.60], [0.50, 0.52, 0.51], 100_000, "cannot be told at this size"),  # seeds differ more
        ([0.51, 0.51, 0.51], [0.50, 0.50, 0.50], 384, "cannot be told at this size"),  # equal seeds are no proof
        ([0.90], [0.10], 100_000, "cannot be told at this size"),  # one seed
        ([0.90, 0.91], [0.10], 100_000, "cannot be told at this size"),
    ],
)
def test_a_verdict_needs_more_than_noise(first: list[float], second: list[float], videos: int, word: str) -> None:
    assert verdicts.verdict(Measured(first, videos), Measured(second, videos)).word == word


def test_the_limit_is_that_of_a_t_test() -> None:
    """Deviations 0.02, three seeds each: the error is 0.02 * sqrt(2 / 3), times 2.78 for four degrees of freedom."""
    first, second = Measured([0.48, 0.5, 0.52], 10**9), Measured([0.38, 0.4, 0.42], 10**9)
    assert verdicts.verdict(first, second).limit == pytest.approx(2.78 * 0.02 * (2 / 3) ** 0.5)


def test_cells() -> None:
    assert verdicts.mean_cell([0.5, 0.52, 0.54]) == "52.0 ± 2.0 (3)"
    assert verdicts.mean_cell([0.5]) == "50.0 (1)" and verdicts.mean_cell([]) == "–"
    high, low = Measured([0.80, 0.82], 400), Measured([0.5, 0.52], 400)
    assert verdicts.verdict_cell(high, low) == "holds (+30.0; 6.4)"
    assert verdicts.verdict_cell(high, Measured([], 0)) == "–"
    assert verdicts.verdict_cell(Measured([0.8], 400), Measured([0.5], 400)).endswith("(+30.0; one seed)")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study's folder with a few finished runs, and one that is not finished."""
    study, out = sizes.TINY, tmp_path / "study"
    write(out / "raw/camera-motion.json", train_clips_per_class=study.labelled, unlabelled_clips=study.unlabelled)
    costs = [{"run": "finetune/scratch_0.5_0", "exit": code, "cpu_s": cpu_s} for code, cpu_s in ((-9, 2.0), (0, 3.5))]
    (out / "costs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in costs))
    for run, metrics in {
        "pretrain/video_init_0": {"mvm_loss": 2.5, "mvm_acc": 0.25, "step_s": 1.0},
        "finetune/scratch_0.5_0": {"val_top1": 0.25, "val_videos": 384},
        "finetune/joint_init_0.5_0": {"val_top1": 0.75, "val_videos": 384},
        "finetune_pictures/joint_init_0.05_0": {"val_top1": 0.5, "val_videos": 100},
        "finetune/joint_init_1_0": None,
    }.items():
        write(out / run / "run.json", versions={"python": "3", "torch": "2"}, git_revision="0" * 40, total_steps=7)
        if metrics is not None:
            (out / run / "metrics.jsonl").write_text(json.dumps({"step": 0}) + "\n" + json.dumps(metrics) + "\n")
            (out / run / "weights.safetensors").touch()
    (out / "temporal/joint_init_0").mkdir(parents=True)
    (out / "temporal/joint_init_0/temporal.csv").write_text("frames,seeds,top1\nnormal,1,0.75\nshuffle,3,0.25\n")
    (out / "temporal/joint_init_0/temporal_per_class.csv").write_text("name,videos\npan,40\nzoom,24\n")
    masked = {"video_init_0": {"tokens": "dvae-v2", "tube": {"loss": 2.0, "accuracy": 0.3, "positions": 9}}}
    write(out / "masked.json", image_0={"skipped": "no video stream"}, **masked)
    make_token_set(out / "few", num_samples=4)
    return out


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_finished_runs_are_collected(study: Path) -> None:
    found = json.loads(results.text_of(results.results_of(study)))
    assert found["sizes"]["study"] == "tiny" and found["machine"]["torch"] == ["2"]
    assert found["pretrain"] == [
        {"name": "video_init", "seed": 0, "steps": 7, "cpu_s": None, "mvm_loss": 2.5, "mvm_acc": 0.25}
    ]
    rows = [(row["labels"], row["name"], row["share"], row["top1"], row["cpu_s"]) for row in found["finetune"]]
    assert rows == [
        ("motion", "joint_init", 0.5, 0.75, None),
        ("motion", "scratch", 0.5, 0.25, 5.5),
        ("pictures", "joint_init", 0.05, 0.5, None),
    ]
    assert [(row["frames"], row["top1"], row["videos"]) for row in found["temporal"]] == [
        ("normal", 0.75, 64),
        ("shuffle", 0.25, 64),
    ]
    assert [(row["name"], row["mask"], row["loss"]) for row in found["masked"]] == [("video_init", "tube", 2.0)]
    (tokens,) = found["tokens"]
    assert (tokens["name"], tokens["samples"], tokens["views"]) == ("few/test-v2", 4, 2)
    assert tokens["bytes"] > 0 < tokens["jpeg_bytes"]


def test_every_row_has_its_line(study: Path) -> None:
    text = results.text_of(results.results_of(study))
    assert text == results.text_of(json.loads(text))
    assert all(line.count("{") <= 1 for line in text.splitlines())


def test_tables_replace_only_what_is_between_their_markers(study: Path) -> None:
    found = json.loads(results.text_of(results.results_of(study)))
    made = {name: make(found) for name, make in tables.TABLES.items()}
    assert "| from scratch | 25.0 (1) | – |" in made["starts"] and "| BEVT | 75.0 (1) | – |" in made["starts"]
    assert "| BEVT-I | – | – | 3 |" in made["starts"] and "| BEVT | 75.0 (1) | – | 3 + 3 |" in made["starts"]
    assert "cannot be told at this size (+50.0; one seed) | – |" in made["orderings"]
    assert "| BEVT | 75.0 (1) | – | 25.0 (1) | – | cannot be told at this size (+50.0; one seed) |" in made["frames"]
    assert "| pictures | 5% | 100 | – | – | – | 50.0 (1) | – |" in made["labels"]
    page = tables.empty_page().replace("## starts", "By hand: 1 < 2, \\1.\n\n## starts")
    once = tables.inserted(page, made)
    assert once == tables.inserted(once, made) and "By hand: 1 < 2, \\1." in once
    assert tables.inserted(once, dict.fromkeys(made, "")) == tables.inserted(page, dict.fromkeys(made, ""))
    with pytest.raises(SystemExit, match="expected each of"):
        tables.inserted(page.replace("<!-- table:starts -->", ""), made)


def test_figures_are_small_and_the_same_each_time(tmp_path: Path) -> None:
    """With three seeds of everything, as in the full study."""
    study = results.asdict(sizes.FULL)
    rows = [
        {"labels": "motion", "name": name, "share": share, "seed": seed, "top1": 0.3 + 0.1 * seed, "videos": 384}
        for name in (*tables.STARTS, *(f"views_{count}" for count in (*tables.VIEWS, "fresh")))
        for share in study["shares"]
        for seed in study["seeds"]
    ]
    hidden = [{"name": row["name"], "mask": "random_frame", "accuracy": row["top1"]} for row in rows]
    found = {"sizes": study, "finetune": rows, "masked": hidden}
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        figures.draw_figures(found, tables.TITLES, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1] and set(written[0]) == {"labels.svg", "views.svg"}
    for data in written[0].values():
        assert len(data) <= 60_000 and b">BEVT-I</text>" in written[0]["labels.svg"]
        ElementTree.fromstring(data)


def test_masked_loss_is_on_the_same_targets_for_every_model(tmp_path: Path) -> None:
    clips = masked.read_clips(make_token_set(tmp_path, num_samples=3, frames=8, grid=8))
    assert clips.pixels.shape == (6, 8, 64, 64, 3) and tuple(clips.tokens.shape) == (6, 8, 8, 8)
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build_bevt(**SWIN_SIZES["nano"], vocab_size=64, streams=("video",)))
    first, again, other = (masked.masked(model, clips, "random_frame") for model in (models[0], models[0], models[1]))
    assert first == again and first["loss"] != other["loss"]
    assert first["positions"] == other["positions"] == 6 * 8 * 64 // 2
    assert 3 < first["loss"] < 6 and 0 <= first["accuracy"] < 0.2
