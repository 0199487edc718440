"""Names that lead out of their folder are refused by every reader: of lists, plans, commits, runs and object stores."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.source_list import sources_digest
from bevt_core.dataset.token_set import read_token_plan
from bevt_core.storage import objects
from bevt_core.storage.contained import contained, readable_source
from bevt_core.storage.files import read_record, remove, write_record
from bevt_core.storage.objects import ObjectPath
from bevt_core.storage.remote import download
from pipeline.check.repair import repair
from pipeline.check.verify import verify
from pipeline.job.decode_part import make_frame_part
from pipeline.job.rows import PartMade, PartToMake
from pipeline.job.stages import WorkerSettings, decode_part
from pipeline.look.scan import scan
from pipeline.sources import list_sources
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA, FileDigest, FramePartCommit, Plan, PoolSpec, SourceItem
from schemas.recipes import DECODE_TIMEOUT_S
from schemas.runs import CLIPS_SCHEMA
from schemas.text.names import leads_out
from schemas.tokens import TokenPartCommit, TokenPlan, TokenSetManifest
from tests.support.builders import make_token_set, smooth_frame
from tests.support.hostile import NAMES
from tests.support.media import write_image
from tests.support.tiny_jobs import digests, save_tiny_tokenizer, tiny_recipe
from trainer.bench.loader import file_of
from trainer.clips.lists import ClipLists, held_out_clips, write_lists

DIGEST = FileDigest(sha256="0" * 64, num_bytes=1)
BUCKET = ObjectPath("s3://data/set")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`root/` with a picture, `secret/` next to it with another, and links from `root/` to `secret/`."""
    base = tmp_path_factory.mktemp("place")
    write_image(base / "root" / "train" / "a.png", smooth_frame("a"))
    write_image(base / "secret" / "s.png", smooth_frame("s"))
    (base / "links" / "frames").mkdir(parents=True)
    (base / "links" / "s.png").symlink_to(base / "secret" / "s.png")
    (base / "links" / "up").symlink_to(base / "secret")
    (base / "links" / "frames" / "1.png").symlink_to(base / "secret" / "s.png")
    return base


def plan_of(source: str) -> tuple[Plan, list[SourceItem]]:
    items = [SourceItem(source=source, kind="image")]
    facts = {"dataset": "folder", "split": "train", "classes": (), "pool": PoolSpec(), "seed": 0}
    return Plan(sources_per_part=1, num_sources=1, sources_digest=sources_digest(items), **facts), items


def make_part(place: Path, name: str) -> None:
    plan, items = plan_of(name)
    make_frame_part(place / "out", place / "root", 0, items, plan, 20.0, 1)


def in_a_worker(place: Path, name: str) -> None:
    plan, items = plan_of(name)
    where = WorkerSettings(
        place / "out", None, place / "root", [plan], None, None, 1, 20.0, 1, allow_outside=False, decoder="pyav"
    )
    PartMade.from_row(decode_part(PartToMake(0, items).to_row(), where)).raise_error()


def in_a_list(place: Path, name: str) -> None:
    (place / "list.txt").write_text(f"{name} 0\n")
    list_sources("list", place / "root", "train", place / "list.txt")


def in_a_table(place: Path, name: str) -> None:
    table = pa.Table.from_pylist([{"source": name, "kind": "image", "label": None}], schema=SOURCES_SCHEMA)
    pq.write_table(table, place / "list.parquet")
    scan(tiny_recipe(place / "root", place / "out", place), list_file=place / "list.parquet", sample=0)


def in_a_run(place: Path, name: str) -> None:
    row = {"use": "val", "run": "", "place": "files", "path": str(place / "root"), "kind": "image", "label": 0}
    row |= {"source": name.encode(), "digest": "0"}
    (place / "run").mkdir(exist_ok=True)
    write_lists(place / "run", ClipLists(pa.Table.from_pylist([row], schema=CLIPS_SCHEMA), {"train": ()}))
    held_out_clips(place / "run", None, None, ("a",), DECODE_TIMEOUT_S)


def in_a_commit(place: Path, name: str) -> None:
    sizes = {f"frames.zarr/{path}zarr.json": DIGEST for path in ("", "jpeg/", "offsets/")}
    sizes |= {"index.parquet": DIGEST, "rejected.parquet": DIGEST}
    counts = {"num_sources": 1, "num_samples": 0, "num_frames": 0, "num_rejected": 1}
    FramePartCommit(part=0, plan_digest="0", files=sizes, **counts)
    FramePartCommit(part=0, plan_digest="0", files={**sizes, f"frames.zarr/{name}": DIGEST}, **counts)


SOURCE_READERS: dict[str, Callable[[Path, str], object]] = {
    "contained": lambda place, name: contained(place / "root", name),
    "a source": lambda place, name: readable_source(place / "root", name, allow_outside=False),
    "a part": make_part,
    "a worker of the job": in_a_worker,
    "a run's held-out clips": in_a_run,
    "the loader's benchmark": lambda place, name: file_of(place / "root", "train", name),
    "a download": lambda place, name: download(BUCKET, {name: 1}, place / "root"),
    "a commit": in_a_commit,
}
LIST_READERS = {"a list": in_a_list, "a table for scan": in_a_table}  # these normalise names that stay inside


@pytest.mark.parametrize("reader", SOURCE_READERS)
def test_every_reader_refuses_names_that_lead_out(place: Path, reader: str) -> None:
    for name in NAMES:
        with pytest.raises((UserError, ValidationError)):
            SOURCE_READERS[reader](place, name)
    assert not list((place / "out").glob("**/*"))


@pytest.mark.parametrize("reader", LIST_READERS)
def test_lists_refuse_names_that_lead_out(place: Path, reader: str) -> None:
    for name in NAMES:
        outside = leads_out(os.path.normpath(name.replace("\\", "/"))) is not None
        if outside and "\0" not in name:
            with pytest.raises(UserError):
                LIST_READERS[reader](place, name)


@pytest.mark.parametrize("name", ["s.png", "up/s.png", "frames"])
def test_links_out_of_the_root_are_refused_unless_they_are_allowed(place: Path, name: str) -> None:
    plan, items = plan_of(name)
    for link_root in (place / "links", place / "root" / ".." / "links"):
        with pytest.raises(UserError, match=r"a link to .*secret.*--allow-outside"):
            make_frame_part(place / "out", link_root, 0, items, plan, 20.0, 1)
    assert readable_source(place / "links", name, allow_outside=True) == place / "links" / name
    inside = place / "links" / "inside.png"
    inside.unlink(missing_ok=True)
    inside.symlink_to(place / "links" / ".." / "links" / "frames")
    assert contained(place / "links", "inside.png") == inside


@pytest.mark.parametrize("name", [*NAMES, ".hidden", "a/b", "a b"])
def test_token_sets_have_plain_names(place: Path, name: str) -> None:
    if not (place / "set").exists():
        make_token_set(place / "set", num_samples=2, frames=1)
    folder = place / "set" / "tokens" / "test-v2"
    for file, kind in (("plan.json", TokenPlan), ("dataset.json", TokenSetManifest)):
        data = json.loads((folder / file).read_text())
        with pytest.raises(ValidationError, match="name"):
            kind.model_validate({**data, "name": name})
        with pytest.raises(ValidationError, match="name"):
            kind.model_validate({**data, "tokenizer": {**data["tokenizer"], "name": name}})


PIECES = st.sampled_from(["..", ".", "", "a", "b.png", "C:", "é", "a b", "\0", "...", "..a", "\\"])
PATHS = st.builds(str.join, st.sampled_from(["/", "\\", "//"]), st.lists(PIECES, max_size=6)) | st.text(max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=PATHS)
def test_what_is_let_through_is_below_the_folder(tmp_path: Path, name: str) -> None:
    if leads_out(name) is not None:
        with pytest.raises(UserError):
            contained(tmp_path, name)
        return
    path = contained(tmp_path, name)
    assert isinstance(path, Path) and str(path) == f"{tmp_path}/{name}" == os.path.normpath(path)
    assert str(BUCKET / name) == f"{BUCKET}/{name}"


@settings(max_examples=60, deadline=None)
@given(name=PATHS)
def test_keys_stay_below_their_prefix(name: str) -> None:
    try:
        key = str(BUCKET / name)
    except UserError:
        assert "\0" in name or ".." in name.split("/")
    else:
        assert key == str(BUCKET) or key.startswith(f"{BUCKET}/")
        assert not {"..", "."} & set(key.removeprefix("s3://").split("/"))


@pytest.mark.parametrize("key", ["a/../../x", "../x", "/etc/x", "a//b", "./a"])
def test_listed_keys_that_cannot_be_files_are_one_error(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectPath, "_request", lambda self, what, call, retries=0: call(None))
    monkeypatch.setattr(objects, "list_rest", lambda store, prefix, found: found.update({f"set/{key}": 1}) or True)
    with pytest.raises(UserError, match="cannot be a file"):
        BUCKET.sizes()


# ---- verify and repair -----------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A self-consistent dataset whose sources are `../secret/0000.mp4` and so on, and the files they refer to."""
    save_tiny_tokenizer(tmp_path / "tokenizer")
    make_token_set(tmp_path / "data", num_samples=4, sources_per_part=2, frames=2, tag="../secret/")
    for i in range(4):
        write_image(tmp_path / "secret" / f"{i:04d}.mp4" / "1.jpg", smooth_frame(i))
    (tmp_path / "raw").mkdir()
    return tmp_path


def test_verify_names_sources_outside_the_root(outside: Path) -> None:
    report = verify(outside / "data", sample=0)
    (problem,) = report["problems"]
    assert problem["problem"].startswith("4 sources lead out of the root, the first is '../secret/0000.mp4'")
    assert verify(outside / "data", sample=0, allow_outside=True)["ok"]


def test_repair_decodes_nothing_outside_the_root(outside: Path) -> None:
    shutil.rmtree(outside / "data" / "frames" / "part-00001")
    before = digests(outside)
    with pytest.raises(UserError, match=r"4 sources lead out of the root.*nothing was changed: use `bevt verify"):
        repair(outside / "data", outside / "raw")
    assert digests(outside) == before


def test_repair_writes_to_no_other_token_set(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path / "tokenizer")
    make_token_set(tmp_path / "data", num_samples=2, frames=1)
    folder = tmp_path / "data" / "tokens" / "test-v2"
    (folder / "part-00000.parquet").unlink()
    plan, manifest = read_token_plan(folder), read_record(folder / "dataset.json", TokenSetManifest)
    commit = read_record(folder / "part-00000.json", TokenPartCommit)
    assert plan is not None and manifest is not None and commit is not None
    for name, message in (("../../../ESCAPED", "name: expected a name"), ("other", "rename the folder to other")):
        named = plan.model_copy(update={"name": name})  # without validation
        write_record(folder / "plan.json", named)
        write_record(folder / "dataset.json", manifest.model_copy(update={"name": name}))
        write_record(folder / "part-00000.json", commit.model_copy(update={"token_plan": named.digest()}))
        before = digests(tmp_path)
        with pytest.raises(UserError, match=message):
            repair(tmp_path / "data", tmp_path, tokenizer=str(tmp_path / "tokenizer"))
        assert digests(tmp_path) == before


def test_repair_takes_no_recipe_from_a_plan(tmp_path: Path) -> None:
    make_token_set(tmp_path, num_samples=2, frames=1)
    path = tmp_path / "frames" / "plan.json"
    evil = tmp_path / "evil.yaml"
    evil.write_text("kind: tokenize\n")
    shutil.rmtree(tmp_path / "tokens")
    shutil.rmtree(tmp_path / "frames" / "part-00000")
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": str(evil)}))
    with pytest.raises(UserError, match=r"plan.json: dataset .*evil.yaml', expected one of k400"):
        repair(tmp_path, tmp_path)


def test_repair_changes_nothing_behind_a_link(tmp_path: Path) -> None:
    make_token_set(tmp_path / "mine", num_samples=2, frames=1)
    make_token_set(tmp_path / "given", num_samples=2, frames=1)
    shutil.rmtree(tmp_path / "given" / "tokens" / "test-v2")
    (tmp_path / "given" / "tokens" / "test-v2").symlink_to(tmp_path / "mine" / "tokens" / "test-v2")
    (tmp_path / "mine" / "tokens" / "test-v2" / "part-00000.json").write_text("{")
    before = digests(tmp_path)
    with pytest.raises(UserError, match=r"tokens/test-v2: a link to .*mine/tokens/test-v2, out of the dataset"):
        repair(tmp_path / "given", tmp_path)
    assert digests(tmp_path) == before


def test_a_linked_part_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    make_token_set(tmp_path / "mine", num_samples=2, frames=1)
    (tmp_path / "part-00000").symlink_to(tmp_path / "mine" / "frames" / "part-00000")
    remove(tmp_path / "part-00000")
    assert not (tmp_path / "part-00000").is_symlink()
    assert len(FrameStore(tmp_path / "mine" / "frames").read_frames(0, 0, 1)) == 1
