"""Roots and datasets on an object store: the same listings, parts, verdicts and repairs as on a disk."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bevt_core.dataset.frame_store import FrameStore, local_part, read_frame_commit
from bevt_core.dataset.sample_table import samples_in_parts
from bevt_core.dataset.source_list import sources_digest
from bevt_core.media.video.header import read_video_header
from bevt_core.storage.clouds.ranges import READ_BYTES
from bevt_core.storage.files import read_record, sha256_of, sizes_in
from bevt_core.storage.objects import ObjectPath, as_path
from pipeline.check.problems import to_remove
from pipeline.check.verify import check_files, verify
from pipeline.job.decode_part import make_frame_part
from pipeline.job.plan import make_plan
from pipeline.look.report import report_job
from pipeline.look.sample import inspect_dataset
from pipeline.look.scan import scan
from pipeline.sources import list_sources
from schemas.errors import StorageError, UserError
from schemas.frames import FramePartCommit, Plan, PoolSpec
from tests.support.builders import make_token_set
from tests.support.media import moving_frames, write_image, write_video
from tests.support.s3_server import DENIED, S3Server, s3_server
from tests.support.tiny_jobs import tiny_recipe

LAYOUTS: dict[str, tuple[dict[str, str], str]] = {
    "folder": ({"train/b c/2.mp4": "", "train/a/é 1.mp4": "", "train/.hidden": "", "train/notes.txt": ""}, "train"),
    "k400": (
        {
            "annotations/kinetics-400_val.csv": "label,youtube_id,time_start,time_end,split\n"
            "tai chi,abc,1,11,val\ntai chi,gone,2,12,val\nbowling,-_x,3,13,val\n",
            "val/tai chi/abc_000001_000011.mp4": "",
            "val/bowling/-_x.mp4": "",
        },
        "val",
    ),
    "imagenet": (
        {
            "val/ILSVRC2012_val_00000001.JPEG": "",
            "val/ILSVRC2012_val_00000002.JPEG": "",
            "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000001,n00000002 1 2 3 4\n"
            "ILSVRC2012_val_00000002,n00000001 1 2 3 4\n",
        },
        "val",
    ),
    "list": ({"a/1.mp4": "", "a/2.mp4": "", "classes.txt": "one\ntwo\n"}, "train"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEVT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield server


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_a_root_lists_as_it_does_on_a_disk(server: S3Server, tmp_path: Path, dataset: str) -> None:
    files, split = LAYOUTS[dataset]
    disk, store = tmp_path / "root", as_path(f"s3://data/root/{dataset}")
    for name, text in files.items():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text(text)
        (store / name).write_bytes(text.encode())
    list_file = None
    if dataset == "list":
        list_file = tmp_path / "list.txt"
        list_file.write_text("a/1.mp4 two\na/2.mp4 0\na/3.mp4 one\n")
    there = list_sources(dataset, store, split, list_file)
    assert there == list_sources(dataset, disk, split, list_file)
    assert there.items and len(there.missing) == (dataset in ("k400", "list"))


def test_a_root_that_is_not_there_and_a_line_that_leads_out(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`root` s3://data/nothing: no such folder"):
        list_sources("folder", as_path("s3://data/nothing"), "train")
    (as_path("s3://data/out") / "x.mp4").write_bytes(b"")
    (tmp_path / "list.txt").write_text("../secret.mp4 0\n")
    with pytest.raises(UserError, match=r"leads out of the root s3://data/out"):
        list_sources("list", as_path("s3://data/out"), "train", tmp_path / "list.txt", allow_outside=True)


def test_a_part_of_objects_is_that_of_files(server: S3Server, tmp_path: Path) -> None:
    """Videos, one that is no video, an empty one and a missing one."""
    root = tmp_path / "root"
    write_video(root / "a" / "1 #.mp4", moving_frames(8))
    (root / "a" / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (root / "a" / "empty.mp4").write_bytes(b"")
    for name in sizes_in(root):
        (as_path("s3://data/videos") / name).write_bytes((root / name).read_bytes())
    items = [*list_sources("folder", root, "train").items]
    items.append(items[0].model_copy(update={"source": "a/missing.mp4"}))
    pool = PoolSpec(stride=2, phase="zero", max_frames=8, short_side_px=32)
    plan = Plan(
        dataset="folder",
        split="train",
        classes=("a",),
        pool=pool,
        seed=0,
        sources_per_part=4,
        num_sources=4,
        sources_digest=sources_digest(items),
    )
    make_frame_part(tmp_path / "frames", root, 0, items, plan, 20.0, 1)
    commit = make_frame_part(as_path("s3://data/made/frames"), as_path("s3://data/videos"), 0, items, plan, 20.0, 1)
    assert (commit.num_samples, commit.num_rejected) == (1, 3)
    made = as_path("s3://data/made/frames")
    assert {name: sha256_of(made / name) for name in sizes_in(made)} == {
        name: sha256_of(tmp_path / "frames" / name) for name in sizes_in(tmp_path / "frames")
    }


def test_a_scan_of_objects_is_that_of_files_and_its_list_is_taken(server: S3Server, tmp_path: Path) -> None:
    """Videos, a folder of frames, what is no video, an empty file, and a line for nothing."""
    root, store = tmp_path / "root", as_path("s3://data/scan")
    write_video(root / "a" / "1.mp4", moving_frames(12))
    write_image(root / "b" / "frames" / "1.png", moving_frames(1)[0])
    (root / "b" / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (root / "b" / "empty.mp4").write_bytes(b"")
    names = ["a/1.mp4", "b/frames", "b/noise.mp4", "b/empty.mp4", "b/gone.mp4"]
    (root / "list.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    for name in sizes_in(root):
        (store / name).upload(root / name)
    recipe = tiny_recipe(root, tmp_path, tmp_path, "dataset=list")
    local = scan(recipe, list_file=root / "list.txt", sample=0, threads=1)
    recipe = recipe.model_copy(update={"root": str(store)})
    found = scan(recipe, list_file=f"{store}/list.txt", write=f"{store}/list.parquet", sample=2, threads=1)
    assert (found["usable"], found["missing"], found["estimate"]["frames"]) == (2, 1, 7)
    same = found.keys() - {"estimate"}
    assert {key: found[key] for key in same} == {key: local[key] for key in same}
    _, items = make_plan(recipe, f"{store}/list.parquet", allow_outside=False)
    assert sorted(item.source for item in items) == names[:2]


def test_a_header_takes_the_ranges_that_it_needs(server: S3Server, tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (240, 320, 3), dtype=np.uint8) for i in range(12)]
    path = write_video(tmp_path / "tail.mp4", noise, options={"crf": "1"})  # its header is at its end
    video = as_path("s3://data/ranges/tail.mp4")
    video.upload(path)
    assert path.stat().st_size > 3 * READ_BYTES
    server.requests.clear()
    assert read_video_header(video) == read_video_header(path)
    assert sum("GET /data/ranges" in request for request in server.requests) == 2
    with video.reader() as file:
        assert file.read() == path.read_bytes()
    server.fault = lambda number, request: DENIED if request.startswith("GET /data/ranges") else None
    with pytest.raises(StorageError, match=r"tail.mp4: no permission to read"):
        read_video_header(video)
    server.fault = lambda number, request: None


def test_verify_finds_what_is_wrong_with_objects(server: S3Server) -> None:
    dataset = as_path("s3://data/verify")
    make_token_set(dataset, num_samples=6, sources_per_part=2, frames=2)
    report = verify(dataset, sample=0)
    assert (report["ok"], report["parts"], report["token_sets"]) == (True, 3, ["test-v2"])
    assert inspect_dataset(dataset, sample_id="0001.mp4")["sample"]["num_frames"] == 2
    tokens = dataset / "tokens/test-v2/part-00001.parquet"
    tokens.write_bytes(bytes([tokens.read_bytes()[0] ^ 1]) + tokens.read_bytes()[1:])
    (dataset / "frames/part-00002/index.parquet").unlink()
    (dataset / "frames/part-00000/extra").write_bytes(b"x")
    assert not verify(dataset, sample=0)["ok"]
    broken = to_remove(check_files(dataset)[1])
    assert [str(path) for path in broken] == [
        "s3://data/verify/frames/part-00000",
        "s3://data/verify/frames/part-00002",
        "s3://data/verify/tokens/test-v2/part-00001.parquet",
        "s3://data/verify/tokens/test-v2/part-00001.json",
    ]
    assert isinstance(broken[0], ObjectPath)
    with pytest.raises(UserError, match=r"s3://data/nothing: .*no frames/ in it"):
        verify(as_path("s3://data/nothing"))


def test_a_table_of_samples_is_fetched_once_by_a_machine(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEVT_CACHE", str(tmp_path / "cache"))
    store = make_token_set(as_path("s3://data/sampled"), num_samples=6, sources_per_part=2, frames=2).frames
    server.requests.clear()
    samples = [FrameStore(store.path).samples for _ in range(3)]
    assert samples[0].equals(samples_in_parts(store.path, store.manifest)) and samples[2].equals(samples[0])
    assert (
        len([request for request in server.requests if request.startswith("GET") and "samples.arrow" in request]) == 1
    )
    assert not list((tmp_path / "cache").rglob("index.parquet"))
    (store.path / "samples.arrow").write_bytes(b"x" * (store.path / "samples.arrow").size())
    assert FrameStore(store.path).samples.equals(samples[0])  # from the cache
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(StorageError, match=r"samples\.arrow: its content differs from its commit"):
        _ = FrameStore(store.path).samples
    (store.path / "samples.json").unlink()
    assert FrameStore(store.path).samples.equals(samples[0])


def test_a_dataset_on_objects_has_its_reports(server: S3Server) -> None:
    """The frames' page and the token sets' ones, with links; `verify` takes them for no damage."""
    out = as_path("s3://data/reported")
    done = {"parts": 1, "parts_done_before": 0}
    for views, frames_done in ((2, 0), (3, 1)):
        made = make_token_set(out, num_samples=3, frames=2, num_views=views)
        places = {"frames_dir": str(made.frames.path), "tokens_dir": str(made.path)}
        written = report_job({**done, **places, "frame_parts_done_before": frames_done}, [(1.0, 3)])
        assert written == {"report": f"{made.path}/report.html", "report_error": None}
    links = [f"tokens/test-v{views}/report.html" for views in (2, 3)]
    assert re.findall('href="(.*?)"', (out / "report.html").read_text()) == links
    assert all("3 of 3 samples" in (out / link).read_text() for link in links)
    assert check_files(out)[1] == []


# ---- a store that somebody else made ---------------------------------------------------------------------------------


def hostile_set(name: str) -> ObjectPath:
    """A dataset on the store, whose digests the test may break."""
    root = as_path(f"s3://data/{name}")
    assert isinstance(root, ObjectPath)
    make_token_set(root, num_samples=2, sources_per_part=2, frames=1)
    return root


OTHER_FILES = {
    "frames.zarr/../../../X": 1,
    "frames.zarr/jpeg/c/1/../../../../X": 1,
    "frames.zarr//etc/X": 1,
    "/etc/X": 1,
    "frames.zarr/.zgroup": 1,
    "frames.zarr/jpeg/c/7": 1,  # the first one is 0, and there is no second
    "frames.zarr/jpeg/c/0": 10**15,
    "frames.zarr/offsets/c/0": 10**9,
    "index.parquet": -1,
}


def test_a_commit_that_names_other_files_is_one_error(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hostile_set("hostile")
    monkeypatch.setenv("BEVT_CACHE", str(tmp_path / "a" / "b" / "cache"))
    path, store = root / "frames" / "part-00000" / "commit.json", FrameStore(root / "frames")
    commit = json.loads(path.read_bytes())
    for name, num_bytes in OTHER_FILES.items():
        files = {**commit["files"], name: {"sha256": "0" * 64, "num_bytes": num_bytes}}
        path.write_bytes(json.dumps({**commit, "files": files}).encode())
        server.requests.clear()
        with pytest.raises(UserError, match="expected a FramePartCommit"):
            store.read_jpegs(0, 0, 1)
        with pytest.raises(UserError, match="expected a FramePartCommit"):
            read_frame_commit(root / "frames", 0, store.manifest.plan_digest)
        assert {line.split()[1].partition("?")[0] for line in server.requests} == {
            "/data/hostile/frames/part-00000/commit.json"
        }
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "locks"]


def test_no_more_is_fetched_than_a_commit_says(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hostile_set("longer")
    monkeypatch.setenv("BEVT_CACHE", str(tmp_path / "cache"))
    shard = root / "frames" / "part-00000" / "frames.zarr" / "jpeg" / "c" / "0"
    shard.write_bytes(shard.read_bytes() + bytes(32 << 20))
    store = FrameStore(root / "frames")
    commit = read_record(root / "frames" / "part-00000" / "commit.json", FramePartCommit)
    assert commit is not None
    with pytest.raises(StorageError, match="jpeg/c/0: its content differs from its commit"):
        store.read_jpegs(0, 0, 1)
    with pytest.raises(UserError, match="jpeg/c/0"), local_part(root / "frames", commit) as folder:
        assert (folder / "index.parquet").is_file() and not (folder / "frames.zarr" / "jpeg" / "c" / "0").exists()
        raise UserError("jpeg/c/0")
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 1 << 20


def test_a_store_of_zarr_2_is_never_fetched(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are none that a commit may name, so a copy lacks them, and what is left is no store."""
    root = hostile_set("pickled")
    monkeypatch.setenv("BEVT_CACHE", str(tmp_path / "cache"))
    folder = root / "frames" / "part-00000"
    (folder / "frames.zarr" / ".zgroup").write_bytes(b'{"zarr_format": 2}')
    (folder / "frames.zarr" / "zarr.json").write_bytes(b'{"zarr_format": 2}')
    path = folder / "commit.json"
    commit = json.loads(path.read_bytes())
    commit["files"]["frames.zarr/zarr.json"] = {
        "sha256": hashlib.sha256(b'{"zarr_format": 2}').hexdigest(),
        "num_bytes": 18,
    }
    path.write_bytes(json.dumps(commit).encode())
    with pytest.raises(UserError, match=r"zarr.json: zarr_format is 2, expected 3"):
        FrameStore(root / "frames").read_jpegs(0, 0, 1)
    (problem, *_) = verify(root, sample=0)["problems"]
    assert "not listed in commit.json" in problem["problem"]
