"""`bevt tokenize`: raw files in, a frame store and a token set out; nothing lost, nothing done twice."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers import load_tokenizer
from bevt_core.views.replay import apply_view, halve
from pipeline.check.repair import repair
from pipeline.check.verify import verify
from pipeline.cluster import session as ray_session
from pipeline.job import run as job
from pipeline.job.run import tokenize
from pipeline.look.report import report_job
from pipeline.look.sample import inspect_dataset
from pipeline.look.scan import scan
from schemas.errors import UserError
from schemas.recipes.loading import to_yaml
from tests.support.faults import full_at
from tests.support.inline_jobs import without_ray
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_image, write_video
from tests.support.tiny_jobs import digests, only, save_tiny_tokenizer, tiny_recipe

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sources in two classes: eight videos of different lengths, a stub and random bytes."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(8):
        write_video(root / ("left turn" if i % 2 else "right") / f"-{i}.mp4", moving_frames(4 + 3 * i, seed=i))
    (root / "right" / "stub.mp4").write_bytes(b"")
    (root / "right" / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    return root


@pytest.fixture(scope="module")
def dataset(videos: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Path:
    out = tmp_path_factory.mktemp("dataset")
    summary = tokenize(tiny_recipe(videos, out, tiny_tokenizer), progress="off")
    assert only(summary, "sources", "indexed", "rejected", "parts", "parts_done_before") == {
        "sources": 10,
        "indexed": 8,
        "rejected": 2,
        "parts": 3,
        "parts_done_before": 0,
    }
    assert summary["rejected_by_reason"] == {"empty-file": 1, "not-media": 1}
    assert summary["frames"] == 4 + 7 * 6  # at most six per source
    assert 0 < summary["actor_busy_share"] <= 1
    assert 0 < summary["first_tokens_s"] < summary["seconds"]
    return out


def test_scan_and_tokenize_agree_on_every_count(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """Rare suffixes are read; what is no source is counted by suffix, in both summaries and in the report."""
    root = tmp_path / "root"
    write_video(root / "a" / "1.mts", moving_frames(5), container_format="mpegts")
    frames = [Image.fromarray(frame) for frame in moving_frames(5)]
    frames[0].save(root / "a" / "2.gif", save_all=True, append_images=frames[1:], duration=40)
    write_image(root / "a" / "cover.jpg", moving_frames(1)[0])
    (root / "a" / "gone.mp4").symlink_to(root / "a" / "nowhere.mp4")
    for name, data in [("1.m2ts", b""), ("2.asf", b"noise"), ("3.mp4.part", b""), ("notes.txt", b""), ("README", b"")]:
        (root / "a" / name).write_bytes(data)
    recipe = tiny_recipe(root, tmp_path / "out", tiny_tokenizer)
    report = scan(recipe, threads=1)
    with without_ray():
        summary = tokenize(recipe, frames_only=True, progress="off")
    same = ("sources", "missing", "ignored", "warnings")
    assert only(summary, *same) == only(report, *same)
    assert report["ignored"] == {".jpg": 1, ".part": 1, ".txt": 1, "without a suffix": 1}
    assert summary["rejected_by_reason"] == report["unreadable"] | {"missing": 1}
    assert (summary["indexed"], summary["rejected"], report["usable"]) == (2, 3, 2)
    report_job(summary, [(1.0, 5)])
    assert ".jpg: 1, .part: 1" in (tmp_path / "out" / "report.html").read_text()
    shutil.rmtree(root)
    assert tokenize(recipe, frames_only=True, progress="off")["ignored"] == report["ignored"]


def test_frame_folders_of_a_list(tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The list's counts are compared with the folders before hours of work; a list of missing files starts no work."""
    root, lines = tmp_path / "root", tmp_path / "x.txt"
    for folder, count in {"v1": 5, "v2": 4, "v3": 0, "v4": 5}.items():
        (root / folder).mkdir(parents=True)
        for i, frame in enumerate(moving_frames(count)):
            write_image(root / folder / f"img_{i:05}.jpg", frame)
            write_image(root / folder / f"flow_x_{i:05}.jpg", 255 - frame)
    cut = root / "v4" / "img_00003.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    lines.write_text("v1 5 0\nv2 5 1\nv3 5 1\nv4 5 1\n")
    recipe = tiny_recipe(root, tmp_path / "out", tiny_tokenizer, "dataset=list", "pool.stride=2", "pool.phase=zero")
    report = scan(recipe, list_file=lines, threads=1)
    with without_ray():
        summary = tokenize(recipe, list_file=lines, frames_only=True, progress="off")
    assert (
        summary["warnings"] == report["warnings"] and "(v2: 5 in the list, 4 in the folder)" in summary["warnings"][0]
    )
    assert summary["warnings"][0] in capsys.readouterr().err
    assert summary["rejected_by_reason"] == report["unreadable"] == {"damaged": 1, "no-frames": 1}
    assert summary["frames"] == 3 + 2
    lines.write_text("w1 5 0\n")
    for run in (scan, tokenize):
        with pytest.raises(UserError, match="none of the 1 files that it names exists"):
            run(recipe.model_copy(update={"out": str(tmp_path / "other")}), list_file=lines)
    assert not (tmp_path / "other").exists()


def test_every_source_ends_exactly_once(dataset: Path, videos: Path) -> None:
    store = FrameStore(dataset / "frames")
    rejected = [
        row
        for part in range(store.manifest.num_parts)
        for row in pq.read_table(store.path / part_name(part) / "rejected.parquet").to_pylist()
    ]
    ended = store.index["source"].to_pylist() + [row["source"] for row in rejected]
    assert sorted(ended) == sorted(str(path.relative_to(videos)) for path in videos.rglob("*.mp4"))
    assert {row["source"]: (row["stage"], row["attempts"]) for row in rejected} == {
        "right/stub.mp4": ("open", 1),
        "right/noise.mp4": ("open", 1),
    }
    names = [store.manifest.classes[label] for label in store.index["label"].to_pylist()]
    assert names == [source.split("/")[0] for source in store.index["source"].to_pylist()]


def test_the_tokens_are_those_of_the_stored_frames(dataset: Path, tiny_tokenizer: Path) -> None:
    """The invariant, written out: replaying the stored views on the stored bytes gives the stored tokens."""
    import torch

    token_set = TokenSet(dataset / "tokens" / "dvae-v2")
    tokenizer = load_tokenizer(tiny_tokenizer)
    compared = 0
    for part in range(token_set.manifest.num_parts):
        index = pq.read_table(token_set.frames.path / part_name(part) / "index.parquet").to_pylist()
        for view in range(2):
            stored = token_set.read_view(part, view)
            for row, drawn, tokens_Fhw in zip(index, stored.views, stored.tokens, strict=True):
                frames = token_set.frames.read_frames(part, row["frame_start"], row["num_frames"])
                inputs_NHWC = np.stack([halve(apply_view(frame, drawn), tokenizer.input_px) for frame in frames])
                np.testing.assert_array_equal(tokenizer.encode(torch.from_numpy(inputs_NHWC)).numpy(), tokens_Fhw)
                compared += tokens_Fhw.size
    assert compared == token_set.manifest.num_frames * 2 * 16


def test_inspect_shows_a_sample(dataset: Path, tiny_tokenizer: Path, tmp_path: Path, json_keys: CheckKeys) -> None:
    name = "left turn/-3.mp4"
    report = inspect_dataset(dataset, sample_id=name, picture=tmp_path / "sheet.png", tokenizer=str(tiny_tokenizer))
    assert (report["sample"]["class"], report["sample"]["num_frames"]) == ("left turn", 6)
    json_keys("inspect", report)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    lines = sum(token_set["views"]["num_views"] for token_set in report["token_sets"].values())
    assert sheet.shape == (lines * 112, 3 * 4 * 112, 3)
    with pytest.raises(UserError, match="did you mean 'left turn/-3"):
        inspect_dataset(dataset, sample_id="left turn/-3")


def test_a_second_run_does_nothing(
    dataset: Path, videos: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(job, "count_missing")  # without --max-rejected nobody asks, and 10,000 parts take long
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.suffix in {".parquet", ".zarr"}}
    summary = tokenize(tiny_recipe(videos, dataset, tiny_tokenizer), progress="off")
    assert summary["parts_done_before"] == summary["parts"] == 3
    assert summary["seconds"] < 5
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_repeated_command_says_that_it_made_nothing(
    dataset: Path, videos: Path, tiny_tokenizer: Path, tmp_path: Path, json_keys: CheckKeys
) -> None:
    """It draws the reports where they are gone, and `verify` takes them for no damage."""
    out, recipe = tmp_path / "out", tmp_path / "recipe.yaml"
    shutil.copytree(dataset, out)
    recipe.write_text(to_yaml(tiny_recipe(videos, out, tiny_tokenizer)))
    ran = CliRunner().invoke(cli.app, ["tokenize", "--dataset", "folder", "--recipe", str(recipe), "--json"])
    place = out / "tokens" / "dvae-v2"
    assert f"note: {place}: already finished, nothing was made" in ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["report"] == str(place / "report.html")
    json_keys("tokenize", summary)
    report = verify(out)
    assert (out / "report.html").is_file() and report["ok"]
    json_keys("verify", report)


def test_with_nothing_to_do_neither_ray_nor_torch_is_loaded(dataset: Path, videos: Path, tiny_tokenizer: Path) -> None:
    """And files that come from the future are as good as others: no decision asks the clock."""
    for path in dataset.rglob("*"):
        os.utime(path, (4e9, 4e9))
    recipe = tiny_recipe(videos, dataset, tiny_tokenizer)
    code = (
        "import sys; from pipeline.job.run import tokenize; from schemas.recipes import TokenizeRecipe; "
        "summary = tokenize(TokenizeRecipe.model_validate_json(sys.argv[1]), progress='off'); "
        "print(summary['parts_done_before'], {'ray', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, recipe.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "3 set()\n"


def test_more_views_and_another_tokenizer_decode_nothing(
    dataset: Path, videos: Path, tiny_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(dataset / "frames")
    moved = videos.rename(tmp_path / "gone")  # not one raw file is there
    try:
        more = ("views.num_views=3", "token_set=three")
        summary = tokenize(tiny_recipe(videos, dataset, tiny_tokenizer, *more), progress="off")
    finally:
        moved.rename(videos)
    assert capsys.readouterr().err.count("warning: no GPU in the cluster") == 1
    assert Path(summary["tokens_dir"]).name == "three"
    assert (summary["parts_done_before"], summary["frame_parts_done_before"]) == (0, 3)
    assert digests(dataset / "frames") == before
    two, three = (TokenSet(dataset / "tokens" / name) for name in ("dvae-v2", "three"))
    for part in range(3):
        for view in range(2):
            old, new = two.read_view(part, view), three.read_view(part, view)
            assert old.views == new.views
            assert all(np.array_equal(a, b) for a, b in zip(old.tokens, new.tokens, strict=True))


def test_another_job_into_the_same_place_is_refused(
    dataset: Path, videos: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    before = digests(dataset)
    with pytest.raises(UserError, match=r"pool\.stride 1 there, 2 here"):
        tokenize(tiny_recipe(videos, dataset, tiny_tokenizer, "pool.stride=2"), progress="off")
    with pytest.raises(UserError, match=r"views\.flip_share 0\.5 there, 0\.25 here"):
        tokenize(tiny_recipe(videos, dataset, tiny_tokenizer, "views.flip_share=0.25"), progress="off")
    other = save_tiny_tokenizer(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"tokenizer\.weights_sha256.*`token_set=NAME`"):
        tokenize(tiny_recipe(videos, dataset, other), progress="off")
    assert digests(dataset) == before


@pytest.mark.slow
def test_overwrite_replaces_another_job(videos: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenize(tiny_recipe(videos, tmp_path, tiny_tokenizer, "sources_per_part=10"), progress="off", frames_only=True)
    recipe = tiny_recipe(videos, tmp_path, tiny_tokenizer, "sources_per_part=10", "pool.stride=3")
    summary = tokenize(recipe, progress="off", overwrite=True)
    assert (summary["parts_done_before"], FrameStore(tmp_path / "frames").manifest.pool.stride) == (0, 3)


def test_a_lost_part_alone_is_made_again(dataset: Path, videos: Path, tiny_tokenizer: Path) -> None:
    before = digests(dataset)
    (dataset / "frames" / "part-00001" / "index.parquet").unlink()
    (dataset / "tokens" / "dvae-v2" / "part-00002.json").unlink()
    summary = tokenize(tiny_recipe(videos, dataset, tiny_tokenizer), progress="off")
    assert summary["parts_done_before"] == 1
    assert digests(dataset) == before


def test_a_root_that_is_not_mounted_rejects_nothing(
    dataset: Path, videos: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """Neither of a finished dataset that has lost a part, nor of a job with a list."""
    recipe = tiny_recipe(tmp_path / "mount", dataset, tiny_tokenizer)
    part = dataset / "frames" / "part-00001"
    part.rename(tmp_path / "part")
    with pytest.raises(UserError, match=r"mount: no such folder, and 1 of 3 parts still have to be decoded"):
        tokenize(recipe, progress="off")
    (tmp_path / "part").rename(part)
    (tmp_path / "mount").mkdir()
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 0\n")
    recipe = tiny_recipe(tmp_path / "mount", tmp_path / "out", tiny_tokenizer, "dataset=list")
    with pytest.raises(UserError, match=r"mount: an empty folder, and 1 of 1 parts"):
        tokenize(recipe, list_file=tmp_path / "list.txt", progress="off", frames_only=True)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "GPU_S", 0.5)
    with pytest.raises(UserError, match=r"no GPU of the cluster was free for 0 s; `ray status`"):
        ray_session.await_gpu()


def test_repair_makes_only_what_is_broken(dataset: Path, videos: Path, json_keys: CheckKeys) -> None:
    before = digests(dataset)
    for name in ("frames/part-00000/frames.zarr/jpeg/c/0", "tokens/dvae-v2/part-00002.parquet"):
        data = bytearray((dataset / name).read_bytes())
        data[len(data) // 2] ^= 1
        (dataset / name).write_bytes(data)
    assert not verify(dataset, sample=0)["ok"]
    summary = repair(dataset, videos, progress="off")
    assert summary["removed"] == [
        "frames/part-00000",
        *(f"tokens/dvae-v2/part-00002.{end}" for end in ("parquet", "json")),
    ]
    assert digests(dataset) == before
    json_keys("repair", summary)


def test_max_rejected_stops_the_job_and_keeps_what_is_done(videos: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(videos, tmp_path, tiny_tokenizer, "sources_per_part=2")
    with pytest.raises(UserError, match=r"`max_rejected` is 5\.0%"):
        tokenize(recipe, progress="off", frames_only=True, max_rejected=0.05)
    assert not (tmp_path / "frames" / "dataset.json").exists()
    summary = tokenize(recipe, progress="off", frames_only=True, max_rejected=0.25)
    assert summary["parts_done_before"] >= 1


def test_real_kinetics_and_a_corrupt_file(shared_data: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in shared_data.glob("k400/videos/*/*.mp4"):
        (root / path.parent.name).mkdir(parents=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    corrupted = shared_data / "odd" / "decord__corrupted.mp4"
    (root / "arm wrestling" / "corrupted.mp4").write_bytes(corrupted.read_bytes())
    recipe = tiny_recipe(root, tmp_path / "out", tiny_tokenizer, "dataset=k400", "pool.stride=8")
    summary = tokenize(recipe, progress="off")
    assert (summary["indexed"], summary["rejected_by_reason"]) == (3, {"damaged": 1})
    report = verify(tmp_path / "out", deep=True, tokenizer=str(tiny_tokenizer))
    assert (report["ok"], report["token_agreement"], report["rejected"]) == (True, 1.0, 1)


@pytest.mark.slow
def test_pictures_with_jitter(tiny_tokenizer: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for i, mode in enumerate(["RGB", "L", "CMYK", "RGB", "RGB"]):
        write_image(root / f"n0000000{i % 2}" / f"{i}.JPEG", moving_frames(1, 70 + i, 90, seed=i)[0], mode)
    small = ["dataset=imagenet", "pool.max_frames=1", "views.jitter=0.4", "views.num_views=5"]
    summary = tokenize(tiny_recipe(root, tmp_path / "out", tiny_tokenizer, *small), progress="off")
    assert only(summary, "indexed", "frames", "rejected") == {"indexed": 5, "frames": 5, "rejected": 0}
    report = verify(tmp_path / "out", deep=True)
    assert (report["ok"], report["token_agreement"]) == (True, 1.0)


def test_a_full_disk_is_one_clear_error(videos: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    """Nothing looks whole afterwards, and the rerun finishes the job."""
    recipe = tiny_recipe(videos, tmp_path, tiny_tokenizer, "sources_per_part=10")
    with without_ray():
        tokenize(recipe, progress="off", frames_only=True)
    error = full_at(lambda _: tokenize(recipe, progress="off"), tmp_path, 1)
    assert re.search(r"disk is full .*the same command", error)
    assert not [path for path in (tmp_path / "tokens").rglob("*") if path.is_file()]
    with without_ray():
        assert tokenize(recipe, progress="off")["indexed"] == 8
