"""Testing: every video once for any number of processes, the right frames, and honest accuracies."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.rng import rng_for
from bevt_core.storage.files import remove, write_record
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.one_writer import hold
from bevt_core.weights.model_files import save_weights
from schemas.errors import StorageError, UserError
from schemas.evaluation import FEATURES_SCHEMA, Temporal
from schemas.frames import SourceItem
from schemas.recipes import ClipSampling, EvalViews
from tests.support.builders import make_token_set
from tests.support.classifiers import CARD, SIZES
from tests.support.media import moving_frames, write_image, write_video
from tests.support.processes import elsewhere
from trainer.clips import multi_view as views
from trainer.clips.multi_view import TEMPORAL, ViewChunks, ViewPlan
from trainer.clips.sources import ClipSource, FileClips, StoreClips
from trainer.distributed.launch import launch
from trainer.testing import evaluate as module
from trainer.testing.evaluate import accuracies, evaluate, note_classes
from trainer.testing.extract import extract
from trainer.testing.parts import PartFiles
from trainer.testing.predict import predict
from trainer.testing.tables import add_to_bins, calibration_error, confusion_picture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreClips:
    return StoreClips(make_token_set(tmp_path_factory.mktemp("set"), num_samples=7, sources_per_part=4).frames.path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model with random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_classifier(**SIZES, num_classes=2)
    torch.nn.init.normal_(model.fc.weight, std=1.0)
    save_weights(folder / "weights.safetensors", model)
    write_record(folder / "classifier.json", CARD)
    return folder


def figures(result: dict) -> dict:
    timing = ("seconds", "videos_per_second", "stored_since")
    return {key: value for key, value in result.items() if key not in timing}


def test_seven_videos_on_two_processes_count_once(store: StoreClips, checkpoint: Path, tmp_path: Path) -> None:
    alone = evaluate(checkpoint, store, out=tmp_path / "alone")
    together = launch(evaluate, 2, checkpoint, store, out=tmp_path / "together")
    assert figures(together) == figures(alone) and alone["num_videos"] == 7 and alone["views"] == "2x3"
    one, two = (pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in ("alone", "together"))
    assert two["video"] == one["video"] == [item.source for item in store.items]
    assert two["scores"] == one["scores"]
    assert alone["top1"] == np.mean(np.equal(one["prediction"], one["label"]))


@pytest.mark.parametrize(("videos", "parts", "longest"), [(1, 1, 1), (7, 7, 1), (33, 11, 3), (1000, 32, 32)])
def test_few_videos_make_many_parts(videos: int, parts: int, longest: int) -> None:
    items = tuple(SourceItem(source=f"{i}.mp4", kind="video", label=0) for i in range(videos))
    cut = ViewPlan(CARD.sampling, CARD.crop_px, CARD.views, "normal", seed=0).parts(FileClips(Path(), items, ("a",)))
    assert [at for part in cut for at in part] == list(range(videos))
    assert len(cut) == parts and max(map(len, cut)) == longest


def test_a_stopped_evaluation_goes_on(
    store: StoreClips, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(checkpoint, store, out=tmp_path / "whole")
    score, scored = module.score, []

    def fail_later(*args: object) -> list:
        scored.append(1)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "score", fail_later)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, store, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "evaluation.json").exists()
    assert figures(evaluate(checkpoint, store, out=tmp_path / "cut")) == figures(whole)
    assert len(scored) == 8  # two parts, the one that failed, and the remaining five
    assert (tmp_path / "cut" / "scores.parquet").read_bytes() == (tmp_path / "whole" / "scores.parquet").read_bytes()
    again = evaluate(checkpoint, store, out=tmp_path / "cut")
    assert figures(again) == figures(whole) and len(scored) == 8


def test_an_evaluation_stopped_while_drawing_scores_nothing_again(
    store: StoreClips, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_tables", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(checkpoint, store, out=tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(module, "score", lambda *args: pytest.fail("scored again"))
        result = evaluate(checkpoint, store, out=tmp_path / "cut")
    assert result["num_videos"] == 7 and not (tmp_path / "cut" / "scores.parquet.parts").exists()


def test_the_wrong_place_is_no_result_and_is_tried_again(checkpoint: Path, tmp_path: Path) -> None:
    """Errors may be transient: a share that was not mounted, a typo in the root."""
    items = tuple(SourceItem(source=name, kind="video", label=0) for name in ("a.mp4", "b.mp4"))
    data = FileClips(tmp_path / "videos", items, CARD.classes)
    for command, out in ((evaluate, tmp_path / "out"), (extract, tmp_path / "features" / "out.parquet")):
        with pytest.raises(UserError, match=r"none of the 2 videos could be read, first a\.mp4: .*no such file"):
            command(checkpoint, data, out=out)
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert not (tmp_path / "features" / "out.parquet").exists()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, moving_frames(6))
    assert evaluate(checkpoint, data, out=tmp_path / "out")["num_videos"] == 2
    assert extract(checkpoint, data, tmp_path / "features" / "out.parquet")["num_videos"] == 2


def test_an_unfinished_evaluation_tries_what_failed_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else; leftovers of a killed writer do not matter."""
    write_video(tmp_path / "a.mp4", moving_frames(6))
    items = tuple(SourceItem(source=name, kind="video", label=0) for name in ("a.mp4", "late.mp4"))
    data, out, score, scored = FileClips(tmp_path, items, CARD.classes), tmp_path / "out", module.score, []

    def counted(model: torch.nn.Module, views_BTHWC: torch.Tensor, num_videos: int) -> list:
        scored.append(num_videos)
        return score(model, views_BTHWC, num_videos)

    def stopped(*args: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "score", counted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_tables", stopped)
        evaluate(checkpoint, data, out=out)
    (out / "scores.parquet.parts" / ".000001.parquet@host@1@0").write_bytes(b"half")
    write_video(tmp_path / "late.mp4", moving_frames(6))
    assert scored == [1] and evaluate(checkpoint, data, out=out)["num_videos"] == 2 and scored == [1, 1]
    assert sorted(path.name for path in out.glob("scores*")) == ["scores.parquet"]


def test_parts_not_there_come_before_those_that_failed(tmp_path: Path) -> None:
    """So a job that is stopped repeatedly still reaches its last part."""
    files = PartFiles(tmp_path / "features.parquet", FEATURES_SCHEMA)
    for part, error in ((0, "gone"), (1, None)):
        files.write(part, [{"video": "v", "label": None, "features": None, "error": error}])
    assert files.todo([1, 1, 1, 1]) == [2, 3, 0] and files.todo([1, 2, 1, 1]) == [1, 2, 3, 0]


def test_two_commands_never_share_a_place(store: StoreClips, checkpoint: Path, tmp_path: Path) -> None:
    """Neither a second evaluation nor a second extraction starts; a finished one is always shown."""
    out, file = tmp_path / "out", tmp_path / "features.parquet"
    with (
        elsewhere(hold(out, "bevt evaluate")),
        pytest.raises(UserError, match=r"out: `bevt evaluate` .* is writing it"),
    ):
        evaluate(checkpoint, store, out=out, clips=1, crops=1)
    with elsewhere(hold_file(file, "bevt extract")), pytest.raises(UserError, match=r"`bevt extract` .* is writing it"):
        extract(checkpoint, store, file, clips=1, crops=1)
    assert list(tmp_path.iterdir()) == []
    result = evaluate(checkpoint, store, out=out, clips=1, crops=1)
    extract(checkpoint, store, file, clips=1, crops=1)
    assert not list(tmp_path.rglob(".*"))
    with elsewhere(hold(out, "bevt viz")), elsewhere(hold_file(file, "bevt viz")):
        assert evaluate(checkpoint, store, out=out, clips=1, crops=1).items() >= result.items()
        assert extract(checkpoint, store, file, clips=1, crops=1)["num_videos"] == 7


@pytest.mark.parametrize("lost", ["a part", "a row"])
def test_what_is_not_whole_is_no_result(
    lost: str, store: StoreClips, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program removed or replaced a part while the command ran."""
    write = PartFiles.write

    def lose(files: PartFiles, part: int, rows: list[dict]) -> None:
        write(files, part, rows if part != 3 else rows[:-1])
        if part == 4 and lost == "a part":
            (files.folder / "000003.parquet").unlink()

    out, file = tmp_path / "out", tmp_path / "features.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(PartFiles, "write", lose)
        with pytest.raises(StorageError, match=r"000003\.parquet: 0 of 1 rows; another program changes this folder"):
            evaluate(checkpoint, store, out=out, clips=1, crops=1)
        with pytest.raises(StorageError, match=r"000003\.parquet: 0 of 1 rows"):
            extract(checkpoint, store, file, clips=1, crops=1)
    assert not (out / "scores.parquet").exists() and not (out / "evaluation.json").exists() and not file.exists()
    assert evaluate(checkpoint, store, out=out, clips=1, crops=1)["num_videos"] == 7
    assert extract(checkpoint, store, file, clips=1, crops=1)["num_videos"] == 7
    assert pq.read_table(out / "scores.parquet").num_rows == pq.read_table(file).num_rows == 7


def test_another_evaluation_needs_another_place(store: StoreClips, checkpoint: Path, tmp_path: Path) -> None:
    evaluate(checkpoint, store, out=tmp_path / "out", clips=1, crops=1)
    with pytest.raises(UserError, match="temporal: normal stored, shuffle now"):
        evaluate(checkpoint, store, out=tmp_path / "out", clips=1, crops=1, temporal="shuffle")


def test_views_that_cannot_be_leave_nothing_behind(store: StoreClips, checkpoint: Path, tmp_path: Path) -> None:
    """The folder is free for the corrected command."""
    uniform = CARD.model_copy(update={"sampling": CARD.sampling.model_copy(update={"kind": "uniform"})})
    weights = tmp_path / "run" / "weights.safetensors"
    weights.parent.mkdir()
    weights.symlink_to(checkpoint / weights.name)
    write_record(weights.parent / "classifier.json", uniform)
    with pytest.raises(UserError, match="ask for 1 clip"):
        evaluate(weights, store, out=tmp_path / "out", clips=4)
    assert not (tmp_path / "out").exists()


def test_unreadable_videos_are_named_and_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_frames(6))
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    items = tuple(SourceItem(source=f"{name}.mp4", kind="video", label=0) for name in ("a", "bad", "b"))
    result = evaluate(checkpoint, FileClips(tmp_path, items, ("no", "yes")), out=tmp_path / "out")
    assert result["num_videos"] == 2 and result["num_failed"] == 1 and list(result["failed"]) == ["bad.mp4"]
    assert pq.read_table(tmp_path / "out" / "scores.parquet")["scores"].to_pylist()[1] is None
    capsys.readouterr()
    data = FileClips(tmp_path, items, ("no", "yes"))
    again = evaluate(checkpoint, data, out=tmp_path / "out")
    assert again == result | {"stored_since": again["stored_since"]}
    assert "nothing computed now, 1 of its videos could not be read then; remove it" in capsys.readouterr().err
    assert extract(checkpoint, data, tmp_path / "features.parquet")["num_failed"] == 1
    assert extract(checkpoint, data, tmp_path / "features.parquet")["num_failed"] == 1
    assert "nothing computed now, 1 of its videos could not be read then; remove it" in capsys.readouterr().err


def test_a_stored_result_says_so_and_from_when(
    store: StoreClips, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The note's advice works: without the file or folder, the same call computes again."""
    commands = {
        "evaluation": (lambda out: evaluate(checkpoint, store, out=out, clips=1, crops=1), "evaluation.json"),
        "features.parquet": (lambda out: extract(checkpoint, store, out, clips=1, crops=1), ""),
    }
    for name, (command, written) in commands.items():
        out = tmp_path / name
        assert "stored_since" not in command(out) and "stored result" not in capsys.readouterr().err
        os.utime(out / written, (1e9, 1e9))
        assert command(out)["stored_since"] == "2001-09-09T01:46:40+00:00"
        assert f"note: {out}: stored result of 2001-09-09T01:46:40+00:00, nothing" in capsys.readouterr().err
        remove(out)
        assert "stored_since" not in command(out) and "stored result" not in capsys.readouterr().err


def test_class_names_are_plain_text() -> None:
    """Matplotlib would parse text between dollar signs as a formula, and reject an invalid one."""
    assert confusion_picture(np.eye(2, dtype=np.int64), (r"cost $\frac$", "b")).startswith(b"\x89PNG")


def test_tables_tell_what_the_scores_say(store: StoreClips, checkpoint: Path, tmp_path: Path) -> None:
    result = evaluate(checkpoint, store, out=tmp_path, clips=1, crops=1)
    scores = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert [row["class"] for row in rows] == ["no", "yes"] and sum(int(row["videos"]) for row in rows) == 7
    assert sum(int(row["recognised"]) for row in rows) == round(7 * result["top1"])
    confusion = np.loadtxt(tmp_path / "confusion.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    pairs = list(zip(scores["label"], scores["prediction"], strict=True))
    assert confusion[0, 1] == pairs.count((0, 1)) and confusion.sum() == 7
    assert Image.open(tmp_path / "confusion.png").size > (300, 300)
    assert 0 <= result["calibration_error"] <= 1
    bins = list(csv.DictReader((tmp_path / "reliability.csv").open()))
    assert sum(int(row["videos"]) for row in bins) == 7 and Image.open(tmp_path / "reliability.png").width > 300
    gaps = [
        int(row["videos"]) * abs(float(row["confidence"]) - float(row["recognised"]))
        for row in bins
        if row["confidence"]
    ]
    assert sum(gaps) / 7 == pytest.approx(result["calibration_error"], abs=1e-3)


def test_cost_is_that_of_the_papers_table() -> None:
    with torch.device("meta"):
        model = build_classifier(**SWIN_SIZES["base"], num_classes=400)
    sampling, views = ClipSampling(kind="dense", frames=32, interval=2), EvalViews(clips=4, crops=3, short_side_px=224)
    cost = module.cost_of_views(model, ViewPlan(sampling, 224, views, "normal", seed=0))
    assert round(cost["multiply_adds_per_view"] / 1e9) == 282
    assert cost["multiply_adds_per_video"] == 12 * cost["multiply_adds_per_view"]


def test_calibration_error_of_known_bins() -> None:
    bins = np.zeros((3, 15))
    add_to_bins(bins, np.array([0.9, 0.9, 0.55, 1.0]), np.array([True, False, True, True]))
    assert calibration_error(bins) == pytest.approx((abs(1.8 - 1) + abs(0.55 - 1) + 0) / 4)


def test_predictions_name_classes_and_bad_files(checkpoint: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a b.mp4", moving_frames(6))
    write_image(tmp_path / "in" / "deeper" / "c.png", moving_frames(1)[0])
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    found = predict(checkpoint, [str(tmp_path / "in"), str(tmp_path / "*.mp4"), str(tmp_path / "gone.mp4")], top=1)
    assert [Path(row["video"]).name for row in found] == ["a b.mp4", "c.png", "bad.mp4", "gone.mp4"]
    for row in found[:2]:
        assert row["classes"][0]["name"] in ("no", "yes") and 0.5 <= row["classes"][0]["score"] <= 1
    assert all("error" in row for row in found[2:])
    with pytest.raises(UserError, match="no videos or pictures"):
        predict(checkpoint, [str(tmp_path / "*.xyz")])
    with pytest.raises(UserError, match="2 crops"):
        predict(checkpoint, [str(tmp_path)], crops=2)


def test_classes_without_clips_are_counted(
    store: StoreClips, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(checkpoint, store, clips=1, crops=1)
    assert "classes" not in capsys.readouterr().err
    evaluate(checkpoint, store.subset(store.items[:1]), clips=1, crops=1)
    assert "clips of 1 of the classifier's 2 classes; the figures are of those" in capsys.readouterr().err
    note_classes(FileClips(Path("videos"), store.items[:1], ("no",)))
    assert "warning: videos: the classifier has one class, 'no', so every answer" in capsys.readouterr().err


def test_data_of_other_classes_is_refused(store: StoreClips, checkpoint: Path) -> None:
    other = FileClips(store.folder, store.items, ("no", "maybe"))
    with pytest.raises(UserError, match="label 1: 'maybe' and 'yes'"):
        evaluate(checkpoint, other)


def test_a_pretraining_run_has_no_head(store: StoreClips, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"without classifier\.json"):
        evaluate(tmp_path, store)


def views_of(source: ClipSource, temporal: Temporal, seed: int = 0) -> torch.Tensor:
    plan = ViewPlan(CARD.sampling, 32, EvalViews(clips=2, crops=1, short_side_px=32), temporal, seed)
    return ViewChunks(source, plan, [views.Chunk(0, 0, 3)])[0]["views"]


def test_single_frame_and_shuffle_keep_frames_but_not_time(store: StoreClips) -> None:
    normal, single, shuffled = (views_of(store, temporal) for temporal in ("normal", "single-frame", "shuffle"))
    assert normal.shape == (6, 4, 32, 32, 3)
    for clip, repeated, disordered in zip(normal, single, shuffled, strict=True):
        frames = {frame.numpy().tobytes() for frame in clip}
        assert len({frame.numpy().tobytes() for frame in repeated} & frames) == 1
        assert {frame.numpy().tobytes() for frame in disordered} == frames
    assert torch.equal(shuffled, views_of(store, "shuffle")) and not torch.equal(
        shuffled, views_of(store, "shuffle", 1)
    )


def test_temporal_modes_are_the_configs() -> None:
    assert set(TEMPORAL) == set(Temporal.__args__)  # type: ignore[attr-defined]
    clip = np.arange(8)[None]
    assert sorted(TEMPORAL["shuffle"](clip, rng_for(1))[0]) == list(range(8))


def test_accuracies_count_by_class_and_over_readable_videos() -> None:
    rows = [{"video": str(i), "label": int(i >= 8), "rank": int(i in (0, 8)), "error": None} for i in range(10)]
    rows.append({"video": "bad", "label": 0, "rank": None, "error": "no frames"})
    found = accuracies(rows, num_classes=3)
    assert found["top1"] == 0.8 and found["top5"] == 1.0 and found["num_videos"] == 10
    assert found["mean_class"] == pytest.approx((7 / 8 + 1 / 2) / 2) and found["failed"] == {"bad": "no frames"}


def test_nothing_readable_is_not_a_perfect_score() -> None:
    rows = [{"video": "bad", "label": 0, "rank": None, "error": "empty"}]
    assert accuracies(rows, 2)["top1"] == 0.0 and accuracies(rows, 2)["num_videos"] == 0
