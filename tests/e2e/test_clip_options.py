"""Which clips the commands after pretraining look at, as their options say: stores, lists, splits, classes, views."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import bevt_core.weights.export
import cli
import trainer.distributed.launch
import trainer.probes.probe
from bevt_core.models.build import build_classifier
from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import save_weights
from tests.support.builders import make_token_set
from tests.support.classifiers import CARD, SIZES
from tests.support.json_keys import CheckKeys
from tests.support.listings import touch
from tests.support.media import moving_frames, write_video

STORED = 6  # videos of the frame store: 0000.mp4, ... with the classes no and yes in turn


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, a classifier of `no` and `yes` that takes 2 x 3 views; `frames`, a store; `files/val/yes`, two videos."""
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    save_weights(place / "run" / "weights.safetensors", build_classifier(**SIZES, num_classes=2))
    write_record(place / "run" / "classifier.json", CARD)
    make_token_set(place, num_samples=STORED)
    for name in ("a", "b"):
        write_video(place / "files" / "val" / "yes" / f"{name}.mp4", moving_frames(6))
    return place


def bevt(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def summary(*arguments: object) -> dict[str, Any]:
    result = bevt(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


def error(*arguments: object) -> str:
    result = bevt(*arguments)
    assert result.exit_code != 0
    return f"{result.output} {result.exception}"


def test_a_list_chooses_from_a_frame_store(place: Path, tmp_path: Path) -> None:
    evaluate = ["evaluate", place / "run", "--frames", place / "frames", "--clips", 1, "--crops", 1]
    chosen = tmp_path / "list.txt"
    chosen.write_text("0004.mp4 0\n0001.mp4 yes\n")
    assert summary(*evaluate, "--list", chosen)["num_videos"] == 2
    chosen.write_text("0001.mp4 0\n")
    assert "0001.mp4 has label 0 ('no'), but 1 ('yes') in the frame store" in error(*evaluate, "--list", chosen)
    (tmp_path / "classes.txt").write_text("yes\nno\n")  # then the same number is right
    assert summary(*evaluate, "--list", chosen)["num_videos"] == 1
    chosen.write_text("0001.mp4 0\n" + "".join(f"gone{i}.mp4 0\n" for i in range(5)))
    said = error(*evaluate, "--list", chosen)
    assert "5 of its 6 sources are not in the frame store" in said and "gone0.mp4, gone1.mp4, gone2.mp4, ..." in said
    for option, value in (("--root", place), ("--split", "val"), ("--dataset", "k400")):
        assert f"{option} {value}" in error(*evaluate, option, value)


def test_views_and_splits_are_options_of_extract_and_probe(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys
) -> None:
    monkeypatch.setattr(
        trainer.probes.probe, "fit_attentive", lambda *_: lambda x_NPC: torch.zeros(len(x_NPC), 2)
    )  # slow
    extract = ["extract", place / "run", "--root", place / "files", "--level", "positions"]
    assert "ask for 1 clip and 1 crop" in error(*extract, "--out", tmp_path / "refused.parquet")
    one = ["--clips", 1, "--crops", 1, "--out", tmp_path / "x.parquet"]
    assert "no folder for split 'nowhere', only for val" in error(*extract, *one, "--split", "nowhere")
    extracted = summary(*extract, *one, "--split", "val")
    assert extracted["num_videos"] == 2
    json_keys("extract", extracted)
    probe = ["probe", place / "run", "--frames", place / "frames", "--out", tmp_path / "probe"]
    probe += ["--kind", "knn", "--kind", "attentive"]
    assert "need a single view" in error(*probe, "--clips", 2) and not list((tmp_path / "probe").glob("*"))
    probed = summary(*probe)
    json_keys("probe", probed)
    assert probed["attentive"]["num_videos"] == 2  # a fifth of three, at least one, of each class
    views = {
        name: json.loads((tmp_path / "probe" / f"test-{name}.parquet.json").read_text())["views"]
        for name in ("pooled", "positions")
    }
    assert [(view["clips"], view["crops"]) for view in views.values()] == [(2, 3), (1, 1)]


@pytest.mark.parametrize("command", ["evaluate", "extract", "probe", "analyse temporal"])
def test_loader_processes_are_an_option(
    command: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        trainer.distributed.launch, "launch", lambda *args, **options: given.append(options["num_workers"]) or {}
    )
    arguments = [*command.split(), place / "run", "--frames", place / "frames", "--out", tmp_path / "out"]
    summary(*arguments, "--num-workers", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trainer.distributed.cpus, "usable_cpus", lambda: 24)
    summary(*arguments)
    summary(*arguments, "--nproc", 4)
    assert given == [3, 12, 5]


def test_some_of_the_models_classes_are_enough(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`yes` is label 1 of the model, and the only folder there is."""
    evaluate = ["evaluate", place / "run", "--clips", 1, "--crops", 1]
    assert summary(*evaluate, "--root", place / "files")["num_videos"] == 2
    with monkeypatch.context() as patch:
        launched: list[Any] = []
        patch.setattr(trainer.distributed.launch, "launch", lambda *args, **options: launched.append(args[3]) or {})
        summary(*evaluate, "--root", place / "files")
        assert [item.label for item in launched[0].items] == [1, 1]
    touch(tmp_path / "other", "yes/a.mp4", "maybe/b.mp4")
    said = error(*evaluate, "--root", tmp_path / "other")
    assert "1 of its 2 classes ('maybe')" in said and "classes.txt" in said
    (tmp_path / "other" / "classes.txt").write_text("maybe\nyes\n")  # its own class map stays as it is
    assert "label 0: 'maybe' and 'no'" in error(*evaluate, "--root", tmp_path / "other")
    assert "'foo' is not one of" in error(*evaluate, "--root", place, "--temporal", "foo")
    assert "clips without a class: 2 of 2" in error(*evaluate, "--root", place / "files" / "val" / "yes")


def test_fine_tuning_names_what_it_validates_on(place: Path, tmp_path: Path) -> None:
    files, names = (
        tmp_path / "files",
        [f"{split}/{name}/{i}.mp4" for split in ("train", "val") for name in "ab" for i in range(2)],
    )
    touch(files, *names)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("".join(f"{n} {'ab'.index(n[-7])}\n" for n in names if split in n))
    plan = ["--dry-run", "--set", "global_batch=2"]
    lists = ["finetune", "list", "--root", files, "--list", tmp_path / "train.txt"]
    result = bevt(*lists, "--val-list", tmp_path / "val.txt", *plan)
    assert "4 videos of 2 classes to train on, 4 to validate on" in result.output and "held out" not in result.output
    assert "needs --val-list" in error(*lists, "--val-root", files, *plan)
    assert "--val-root nope: no such folder" in error(
        "finetune", "folder", "--root", files, "--val-root", "nope", *plan
    )
    assert "--val-list nope: no such file" in error(*lists, "--val-list", "nope", *plan)
    assert "clips without a class: 2 of 2" in error("finetune", "folder", "--root", files / "train" / "a", *plan)
    (tmp_path / "one.txt").write_text("".join(f"{n} 0\n" for n in names if "/a/" in n))
    one = bevt("finetune", "list", "--root", files, "--list", tmp_path / "one.txt", *plan)
    assert "all clips to train on are of one class" in one.stderr
    result = bevt(*lists, *plan)
    assert "all clips to train on" not in result.stderr
    assert "2 of 4 videos held out for validation (0.1 of every class, at least one)" in result.stderr
    assert "2 videos of 2 classes to train on" in result.stdout
    for dataset in ("folder", "k400"):
        small = [] if dataset == "folder" else ["--recipe", "nano_finetune"]
        result = bevt("finetune", dataset, "--root", files, *small, *plan)
        assert (
            "4 videos of 2 classes to train on, 4 to validate on" in result.output and "held out" not in result.output
        )


def test_what_is_odd_about_a_root_or_a_list_is_said(place: Path, tmp_path: Path) -> None:
    """Left-out files, labels that start at 1; a list of nothing that is there does no work."""
    root = tmp_path / "root"
    write_video(root / "val" / "no" / "a.mp4", moving_frames(6))
    (root / "val" / "no" / "notes.txt").touch()
    left_out = f"note: {root}: files not used: 1 .txt"
    evaluate = ["evaluate", place / "run", "--clips", 1, "--crops", 1, "--dataset"]
    assert left_out in bevt(*evaluate, "folder", "--root", root).stderr
    assert "files not used: 1 .txt" in bevt("predict", place / "run", root).stderr
    lines = tmp_path / "list.txt"
    lines.write_text("no/a.mp4 1\n")
    assert "so class 0 has no clips" in error(*evaluate, "list", "--root", root / "val", "--list", lines)
    lines.write_text("gone.mp4 0\n")
    assert "none of the 1 files that it names" in error(*evaluate, "list", "--root", root, "--list", lines)


def test_predict_names_places_without_files(place: Path, tmp_path: Path, json_keys: CheckKeys) -> None:
    (tmp_path / "empty").mkdir()
    nothing = [tmp_path / "empty", tmp_path / "*.avi"]
    predicted = summary("predict", place / "run", *nothing, place / "files")
    rows = predicted["videos"]
    json_keys("predict", predicted)
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mp4", "empty", "*.avi"]
    assert all("no videos or pictures found" in row["error"] for row in rows[2:])
    result = bevt("predict", place / "run", tmp_path / "gone.mp4", *nothing)
    assert result.exit_code == 1 and re.search(r"gone\.mp4 +cannot be read", result.output)


def test_an_exported_program_takes_the_models_clips(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_keys: CheckKeys
) -> None:
    def write(path: Path, model: object, *, frames: int, size_px: int) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{frames} {size_px}")

    monkeypatch.setattr(bevt_core.weights.export, "save_program", write)
    (tmp_path / "w.safetensors").write_bytes((place / "run" / "weights.safetensors").read_bytes())
    out = tmp_path / "new" / "x.pt2"
    for checkpoint, options, expected in (
        (place / "run", [], "4 32"),
        (place / "run", ["--frames", 8], "8 32"),
        (tmp_path / "w.safetensors", [], "32 224"),
    ):
        exported = summary("export", checkpoint, "--format", "program", "--out", out, *options)
        json_keys("export --format program", exported)
        assert out.read_text() == expected


def test_a_share_of_the_labels_is_trained_on(place: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        touch(tmp_path / split, *(f"{name}/{i}.mp4" for name in "ab" for i in range(4)))
    plan = ["finetune", "folder", "--root", tmp_path, "--dry-run", "--set", "global_batch=2", "--json"]
    whole, half = bevt(*plan), bevt(*plan, "--set", "label_share=0.5")
    assert "4 of 8 videos are trained on (label_share)" in half.stderr and "label_share" not in whole.stderr
    steps = [json.loads(result.stdout.splitlines()[-1])["steps"] for result in (whole, half)]
    assert steps == [3 * 8 // 2, 3 * 4 // 2]  # epochs x clips / batch
    assert "4 videos of 2 classes to train on, 8 to validate on" in half.output
    probing = ["probe", place / "run", "--frames", place / "frames", "--out", tmp_path / "probe"]
    for share in ("0", "1.5"):
        refused = error(*plan, "--set", f"label_share={share}")
        assert f"label_share: expected a finite number above 0 and at most 1 (given {share})" in refused
        assert "--label-share" in error(*probing, "--label-share", share)
