"""Jobs on archives: the same store as from unpacked files, and the same accounting, rejection, resume and repair."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bevt_core.media.video.header import MediaHeader
from bevt_core.storage.staging import scratch
from pipeline.check.repair import repair
from pipeline.check.verify import verify
from pipeline.job import decode_part as frames_job
from pipeline.job.run import tokenize
from pipeline.look.scan import read_header, scan
from pipeline.sources.archives.packed_file import ARCHIVES
from schemas.errors import StorageError, UserError
from schemas.frames import FramePartCommit
from tests.support.archives import write_tar, write_zip
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_image, write_video
from tests.support.tiny_jobs import digests, only, save_tiny_tokenizer, tiny_recipe


def make_roots(folder: Path) -> tuple[Path, Path]:
    """(plain, packed): videos of three classes, a folder of frames and a damaged file; then the same in archives."""
    plain, packed = folder / "plain", folder / "packed"
    for seed, name in enumerate(["arm/1.mp4", "arm/2.mp4", "sit/é 3.mp4", "sit/-4.avi", "run/5.mp4"]):
        write_video(plain / name, moving_frames(20, seed=seed))
    (plain / "run/noise.mp4").write_bytes(b"noise")
    (plain / "run/empty.mp4").write_bytes(b"")
    write_tar(packed / "arm.tar", plain / "arm", dot=True)
    write_zip(packed / "sit.zip", plain, "sit", method=zipfile.ZIP_STORED)
    write_zip(packed / "run.zip", plain / "run")
    return plain, packed


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return make_roots(tmp_path)


def frames_of(root: Path, out: Path, *overrides: str) -> dict[str, str]:
    """The digests of the files of a frame store that is made without Ray."""
    with without_ray():
        tokenize(tiny_recipe(root, out, Path("none"), *overrides), frames_only=True)
    return {name: digest for name, digest in digests(out / "frames").items() if name != ARCHIVES}


def test_packed_and_unpacked_give_the_same_store(tmp_path: Path, roots: tuple[Path, Path]) -> None:
    plain, packed = roots
    with without_ray():
        tokenizer = save_tiny_tokenizer(tmp_path / "tokenizer")
        summaries = [
            tokenize(tiny_recipe(root, tmp_path / name, tokenizer)) for name, root in (("a", plain), ("b", packed))
        ]
    counts = [only(summary, "sources", "indexed", "rejected", "rejected_by_reason") for summary in summaries]
    assert counts[0] == counts[1]
    assert counts[0]["rejected_by_reason"] == {"empty-file": 1, "not-media": 1}
    stores = [digests(tmp_path / name) for name in ("a", "b")]
    extra = {f"frames/{ARCHIVES}", "report.html"}
    reports = [name for name in stores[0] if name.endswith("report.html")]
    same = [{name: store[name] for name in store.keys() - extra - set(reports)} for store in stores]
    assert same[0] == same[1] and len(same[0]) > 10
    assert verify(tmp_path / "b", tokenizer=str(tokenizer))["ok"]
    assert not list(scratch().glob(".staging/unpacked*"))


def test_folders_of_frames_too(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for clip in "ab":
        for i, frame_HWC in enumerate(moving_frames(6, seed=ord(clip))):
            write_image(plain / f"frames/{clip}/img_{i:05d}.jpg", frame_HWC)
    write_tar(packed / "frames.tar", plain / "frames")
    (tmp_path / "list.txt").write_text("frames/a 6 0\nframes/b 6 1\n")
    stores = []
    for name, root in (("x", plain), ("y", packed)):
        recipe = tiny_recipe(root, tmp_path / name, Path("none"), "dataset=list")
        with without_ray():
            assert tokenize(recipe, list_file=tmp_path / "list.txt", frames_only=True)["indexed"] == 2
        stores.append(digests(tmp_path / name / "frames"))
    del stores[1][ARCHIVES]
    assert stores[0] == stores[1]


def test_a_damaged_member_is_a_rejected_source(
    tmp_path: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours are stored, and `bevt scan` finds it too."""
    monkeypatch.setattr("pipeline.look.scan.IsolatedFunction", HeaderHere)
    _, packed = roots
    archive = packed / "sit.zip"
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("sit/é 3.mp4")
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 200] ^= 1
    archive.write_bytes(data)
    recipe = tiny_recipe(packed, tmp_path / "out", Path("none"))
    report = scan(recipe, sample=0)
    assert report["unreadable"] == {"damaged": 1, "empty-file": 1, "not-media": 1} and report["usable"] == 4
    with without_ray():
        summary = tokenize(recipe, frames_only=True)
    assert summary["rejected_by_reason"] == {"damaged": 1, "empty-file": 1, "not-media": 1}
    rows = [
        row
        for path in (tmp_path / "out/frames").glob("part-*/rejected.parquet")
        for row in pq.read_table(path).to_pylist()
        if row["reason"] == "damaged"
    ]
    assert [(row["source"], row["stage"]) for row in rows] == [("sit/é 3.mp4", "open")]
    assert rows[0]["message"].startswith("in the archive: its checksum is ")


def test_scan_reports_packed_sources_as_files(
    tmp_path: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.look.scan.IsolatedFunction", HeaderHere)
    plain, packed = (scan(tiny_recipe(root, tmp_path / "out", Path("none")), sample=0) for root in roots)
    assert packed == plain and packed["unreadable"] == {"empty-file": 1, "not-media": 1}


class HeaderHere:
    """Reads headers in this process."""

    def __init__(self, *_: object) -> None: ...

    def __call__(self, path: Path, kind: str, limit_s: float) -> MediaHeader:
        return read_header(path, kind)

    def close(self) -> None: ...


def test_a_killed_job_goes_on_with_either_root(
    tmp_path: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts made from archives are kept when the rest is made from the unpacked files, and the other way round."""
    plain, packed = roots
    whole = frames_of(plain, tmp_path / "whole", "sources_per_part=2")
    make = frames_job.make_frame_part

    def killed_at_the_third(frames_dir: Path, *args: Any, **options: Any) -> FramePartCommit:
        if len(list(frames_dir.glob("part-*"))) == 2:
            raise KeyboardInterrupt
        return make(frames_dir, *args, **options)

    for name, first, second in (("a", packed, plain), ("b", plain, packed), ("c", packed, packed)):
        monkeypatch.setattr("pipeline.job.stages.make_frame_part", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            frames_of(first, tmp_path / name, "sources_per_part=2")
        monkeypatch.setattr("pipeline.job.stages.make_frame_part", make)
        assert frames_of(second, tmp_path / name, "sources_per_part=2") == whole


def test_copies_of_killed_workers_are_removed(
    tmp_path: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = scratch() / ".staging/unpacked@0123456789abcdef"
    left.mkdir(parents=True)
    (left / "1.mp4").write_bytes(b"half")
    frames_of(roots[1], tmp_path / "out")
    assert not left.exists()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda path: path.write_bytes(b"short"), UserError, "5 bytes, but [0-9]+ when it was listed"),
        (Path.unlink, StorageError, r"arm\.tar: no such file, but it has the source"),
    ],
    ids=["cut", "gone"],
)
def test_an_archive_that_changes_during_the_job_ends_it(
    tmp_path: Path,
    roots: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    kind: type[Exception],
    message: str,
) -> None:
    _, packed = roots
    make = frames_job.make_frame_part

    def changed(*args: Any, **options: Any) -> FramePartCommit:
        change(packed / "arm.tar")
        return make(*args, **options)

    monkeypatch.setattr("pipeline.job.stages.make_frame_part", changed)
    with pytest.raises(kind, match=message):
        frames_of(packed, tmp_path / "out")


def test_repair_reads_archives(tmp_path: Path, roots: tuple[Path, Path]) -> None:
    _, packed = roots
    out = tmp_path / "out"
    whole = frames_of(packed, out)
    (out / "frames/part-00000/index.parquet").write_bytes(b"damaged")
    with without_ray():
        report = repair(out, packed)
    assert report["indexed"] == 5
    assert {name: digest for name, digest in digests(out / "frames").items() if name in whole} == whole


def test_repair_needs_the_archives_or_the_files(tmp_path: Path, roots: tuple[Path, Path]) -> None:
    plain, packed = roots
    out = tmp_path / "out"
    frames_of(packed, out)
    shutil.rmtree(out / "frames/part-00000")
    for archive in packed.iterdir():
        archive.unlink()
    with without_ray(), pytest.raises(UserError, match="sources to be read again are not in it"):
        repair(out, packed)
    with without_ray():
        assert repair(out, plain)["indexed"] == 5


def test_the_index_of_a_foreign_dataset_leads_nowhere(tmp_path: Path, roots: tuple[Path, Path]) -> None:
    """`bevt repair` copies no bytes from outside the root, whatever archives.parquet names."""
    _, packed = roots
    out = tmp_path / "out"
    frames_of(packed, out)
    shutil.rmtree(out / "frames/part-00000")
    table = pq.read_table(out / "frames" / ARCHIVES)
    rows = table.to_pylist()
    for row in rows:
        for file in row["files"]:
            file["archive"] = "../secret.tar"
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), out / "frames" / ARCHIVES)
    with without_ray(), pytest.raises(UserError, match=r"'\.\./secret\.tar' leads out of"):
        repair(out, packed)


def test_a_damaged_index_is_one_error_and_is_written_again(tmp_path: Path, roots: tuple[Path, Path]) -> None:
    _, packed = roots
    out = tmp_path / "out"
    whole = frames_of(packed, out)
    shutil.rmtree(out / "frames/part-00000")
    (out / "frames" / ARCHIVES).write_bytes(b"damaged")
    with without_ray(), pytest.raises(UserError, match=r"archives\.parquet: not a Parquet file.* `bevt tokenize`"):
        repair(out, packed)
    assert frames_of(packed, out) == whole
