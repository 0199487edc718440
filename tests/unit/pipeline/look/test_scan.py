"""`bevt scan`: the contents of a root, the cost of its job, and a list that the job accepts."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bevt_core.console.readable import summary_lines
from pipeline.look.scan import scan
from pipeline.sources import list_sources
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_audio, write_image, write_video
from tests.support.tiny_jobs import tiny_recipe


def test_scan(tmp_path: Path, json_keys: CheckKeys) -> None:
    root = tmp_path / "root"
    for i, aspect in enumerate(("1:1", "4:3", "639:640")):
        path = root / "a" / f"{i}.mp4"
        write_video(path, moving_frames(25 * (i + 1), 96, 128, seed=i), options={"aspect": aspect})
    write_video(root / "b" / "0.webm", moving_frames(25), codec="libvpx-vp9")
    (root / "b" / "empty.mp4").write_bytes(b"")
    (root / "b" / "text.mp4").write_text("not found")
    (root / "classes.txt").write_text("a\nb\nc\n")
    write_audio(root / "b" / "tone.mp4")
    recipe = tiny_recipe(root, tmp_path / "out", tmp_path / "none")
    lists = {"write": tmp_path / "list.parquet", "write_unusable": tmp_path / "unusable.parquet"}
    report = scan(recipe, **lists, threads=1)
    json_keys("scan", report)
    assert (report["sources"], report["usable"], report["missing"]) == (7, 4, 0)
    assert report["unreadable"] == {"empty-file": 1, "no-video-stream": 1, "not-media": 1}
    assert report["stubs"] >= 2
    (warning,) = report["warnings"]
    assert warning.startswith("1 of 4 have pixels that are not square (mostly 4/3)")
    assert report["codecs"] == {"mov/h264": 3, "matroska/vp9": 1}
    assert report["seconds"]["max"] == pytest.approx(3, abs=0.1)
    assert report["class_counts"]["empty"] == ["c"]
    assert report["class_counts"]["largest"] == {"a": 3, "b": 1, "c": 0}
    assert report["estimate"]["frames"] == 4 * 6
    estimate = report["estimate"]
    assert estimate["decode_cpu_hours"] > 0
    assert estimate["tokenizer_cpu_hours"] > 100 * estimate["tokenizer_gpu_hours"] > 0
    shown = "\n".join(summary_lines(estimate))
    assert "(without a GPU, of one core" in shown and "(on a GPU instead" in shown
    again = list_sources("list", root, "train", tmp_path / "list.parquet")
    assert (len(again.items), again.classes) == (4, ("a", "b", "c"))
    others = pq.read_table(tmp_path / "unusable.parquet").to_pylist()
    reasons = {"b/empty.mp4": "empty-file", "b/text.mp4": "not-media", "b/tone.mp4": "no-video-stream"}
    assert {row["source"]: row["reason"] for row in others} == reasons
    assert [row["num_bytes"] for row in others] == [(root / row["source"]).stat().st_size for row in others]


def test_scan_notes_that_no_file_has_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "root" / "a" / "x.png", moving_frames(1)[0])
    for root, is_noted in ((tmp_path / "root", False), (tmp_path / "root" / "a", True)):
        scan(tiny_recipe(root, tmp_path / "out", tmp_path / "none"), threads=1)
        assert ("no file has a label" in capsys.readouterr().err) == is_noted


def test_scan_counts_what_a_list_misses(tmp_path: Path) -> None:
    write_image(tmp_path / "root" / "x.png", moving_frames(1)[0])
    (tmp_path / "list.txt").write_text("x.png 0\ngone.png 1\n")
    recipe = tiny_recipe(tmp_path / "root", tmp_path / "out", tmp_path / "none", "dataset=list")
    report = scan(recipe, list_file=tmp_path / "list.txt", threads=1)
    assert (report["found"], report["missing"], report["usable"], report["unreadable"]) == (1, 1, 1, {})
    assert report["examples"]["missing"] == ["gone.png"]
