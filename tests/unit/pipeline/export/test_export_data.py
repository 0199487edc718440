"""`bevt export-data`: the same bytes in other formats, read back by other readers; kills, damage and refusals."""

import io
import json
import shutil
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.one_writer import removing
from pipeline.export import lance_rows, run, tar_shards
from pipeline.export.run import export_data
from schemas.errors import StorageError, UserError
from tests.support.builders import add_token_set, make_token_set
from tests.support.json_keys import CheckKeys
from tests.support.processes import refusal
from tests.support.tiny_jobs import digests


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Ten samples of six frames in three parts, with the token sets test-v2 and other."""
    made = make_token_set(tmp_path_factory.mktemp("set"), num_samples=10, sources_per_part=4, frames=6)
    add_token_set(made, "other", num_views=1)
    return made


def stored(tokens: TokenSet) -> dict[str, dict[str, bytes | np.ndarray]]:
    """What every sample of the dataset has, by key: JPEG bytes by frame, tokens by set and view, from the store."""
    sets = {"test-v2": tokens, "other": TokenSet(tokens.path.parent / "other")}
    samples: dict[str, dict[str, Any]] = {}
    for part in range(tokens.frames.manifest.num_parts):
        index = tokens.frames.read_index(part).to_pylist()
        for number, row in enumerate(index):
            found: dict[str, Any] = {"id": row["sample_id"]}
            jpegs = tokens.frames.read_jpegs(part, row["frame_start"], row["num_frames"])
            found |= {f"{at:05d}.jpg": jpeg.tobytes() for at, jpeg in enumerate(jpegs)}
            for name, each in sets.items():
                for view in range(each.manifest.views.num_views):
                    found[f"{name}.{view}.npy"] = each.read_view(part, view).tokens[number]
            samples[f"{part:05d}-{number:06d}"] = found
    return samples


def check(found: dict[str, dict[str, Any]], tokens: TokenSet) -> None:
    """Every sample has the bytes of its JPEGs, the arrays of its tokens, and its views."""
    wanted = stored(tokens)
    assert found.keys() == wanted.keys()
    for key, sample in wanted.items():
        facts = json.loads(found[key]["json"])
        assert facts["sample_id"] == sample.pop("id") and facts["class_name"] == ("no", "yes")[facts["label"]]
        assert {name for name in found[key] if name.endswith((".jpg", ".npy"))} == sample.keys()
        for name, content in sample.items():
            if isinstance(content, bytes):
                assert found[key][name] == content
            else:
                array = np.load(io.BytesIO(found[key][name]))
                assert array.dtype == np.uint16 and np.array_equal(array, content)
        part, number = map(int, key.split("-"))
        for view in range(2):
            geometry = tokens.read_view(part, view).views[number]
            assert json.loads(found[key][f"test-v2.{view}.json"]) == geometry.model_dump(mode="json")


def test_shards_have_the_bytes_of_the_store(tokens: TokenSet, tmp_path: Path, json_keys: CheckKeys) -> None:
    dataset = tokens.path.parent.parent
    command = ["export-data", str(dataset), "--to", "webdataset", "--out", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 0, ran.output
    summary = json.loads(ran.stdout.splitlines()[-1])
    json_keys("export-data", summary)
    assert (summary["parts"], summary["parts_done_before"], summary["samples"], summary["frames"]) == (3, 0, 10, 60)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"part-0000{part}.tar" for part in range(3)]
    assert sum(shard.stat().st_size for shard in shards) == summary["bytes"]
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in shards:
        with tarfile.open(shard) as tar:
            for entry in tar:
                assert (entry.mtime, entry.uid, entry.uname, entry.mode) == (0, 0, "", 0o644)
                key, _, name = entry.name.partition(".")
                found[key][name] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    check(found, tokens)
    again = export_data(dataset, tmp_path / "again", "webdataset")
    assert again["bytes"] == summary["bytes"] and digests(tmp_path / "again") == digests(tmp_path / "out")


def test_webdataset_reads_the_shards(tokens: TokenSet, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    export_data(tokens.path.parent.parent, tmp_path / "out", "webdataset")
    shards = str(tmp_path / "out" / "part-{00000..00002}.tar")
    raw = {each["__key__"]: each for each in wds.WebDataset(shards, shardshuffle=False)}
    check(raw, tokens)
    for decoded in wds.WebDataset(shards, shardshuffle=False).decode("rgb8"):
        number = raw[decoded["__key__"]]
        assert decoded["00000.jpg"].shape == (72, 96, 3) and decoded["json"]["num_frames"] == 6
        assert np.array_equal(decoded["other.0.npy"], np.load(io.BytesIO(number["other.0.npy"])))


def test_lance_reads_the_rows(tokens: TokenSet, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    export_data(tokens.path.parent.parent, tmp_path / "out", "lance")
    dataset = lance.dataset(str(tmp_path / "out" / "samples.lance"))
    rows = {row["sample_id"]: row for row in dataset.to_table().to_pylist()}
    wanted = stored(tokens)
    assert len(rows) == len(wanted) == 10
    for key, sample in wanted.items():
        row, (part, number) = rows[sample["id"]], map(int, key.split("-"))
        assert row["jpegs"] == [sample[f"{at:05d}.jpg"] for at in range(6)]
        for name, views in (("test-v2", 2), ("other", 1)):
            for view in range(views):
                array = np.array(row[f"tokens_{name}"][view], np.uint16).reshape(6, 4, 4)
                assert np.array_equal(array, sample[f"{name}.{view}.npy"])
        geometry = tokens.read_view(part, 1).views[number]
        assert row["views_test-v2"][1] == geometry.model_dump() | {"jitter": []}


@pytest.mark.parametrize("to", ["webdataset", "lance"])
def test_a_killed_export_goes_on(tokens: TokenSet, tmp_path: Path, to: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if to == "lance":
        pytest.importorskip("lance", reason="pylance is not installed")
    dataset, out = tokens.path.parent.parent, tmp_path / "out"
    write = run.export_part

    def killed(dataset: Any, out: Path, part: int, *more: Any) -> Any:
        for store in (tokens.frames.path, tokens.path):
            assert refusal(removing([store], "bevt repair")).startswith(f"{store}: `bevt export-data`")
        commit = write(dataset, out, part, *more)
        if part == 1:  # written, but the process ends before the commit
            (out / "commits" / "part-00001.json").unlink()
            raise KeyboardInterrupt
        return commit

    with monkeypatch.context() as patch:
        patch.setattr(run, "export_part", killed)
        with pytest.raises(KeyboardInterrupt):
            export_data(dataset, out, to)
    assert not (out / "export.json").exists()
    summary = export_data(dataset, out, to)
    assert (summary["parts_done_before"], summary["parts"], summary["samples"]) == (1, 3, 10)
    before = digests(out)
    assert export_data(dataset, out, to)["parts_done_before"] == 3 and digests(out) == before
    if to == "lance":
        import lance

        assert lance.dataset(str(out / "samples.lance")).count_rows() == 10
        assert len(list((out / "samples.lance" / "data").iterdir())) == 3  # without the killed part's file
        return
    export_data(dataset, tmp_path / "straight", to)
    assert digests(tmp_path / "straight") == before
    (out / "part-00002.tar").write_bytes(b"cut")
    assert export_data(dataset, out, to)["parts_done_before"] == 2 and digests(out) == before


def test_what_the_disk_changes_is_noticed(tokens: TokenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "check_members", _after_damage(tar_shards.check_members))
    with pytest.raises(StorageError, match=r"00000-000000.00000.jpg not stored as written; check the disk"):
        export_data(tokens.path.parent.parent, tmp_path / "out", "webdataset")
    assert not list((tmp_path / "out" / "commits").glob("*"))


@pytest.mark.parametrize("to", ["webdataset", "lance"])
def test_damaged_frames_are_the_same_error_for_each_format(tokens: TokenSet, tmp_path: Path, to: Any) -> None:
    if to == "lance":
        pytest.importorskip("lance", reason="pylance is not installed")
    shutil.copytree(tokens.path.parent.parent, tmp_path / "set")
    (tmp_path / "set/frames/part-00000/frames.zarr/offsets/c/0").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^/.*/offsets/c/0: 1 bytes, expected .*; run `bevt verify`"):
        export_data(tmp_path / "set", tmp_path / "out", to)
    assert not (tmp_path / "out" / "export.json").exists()


def _after_damage(function: Any) -> Any:
    def damaged(target: Path, written: list[tuple[str, str]]) -> None:
        data = bytearray(target.read_bytes())
        at = data.index(b"\xff\xd8\xff")  # the first JPEG
        data[at + 100] ^= 1
        target.write_bytes(data)
        function(target, written)

    return damaged


def test_lance_is_optional(tokens: TokenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UserError, match=r"lance is not installed; run `pip install -e '.*\[lance\]'`"):
        export_data(tokens.path.parent.parent, tmp_path / "out", "lance")
    assert not (tmp_path / "out").exists()


def test_row_digests_cover_every_column(tokens: TokenSet) -> None:
    dataset = run.open_dataset(tokens.path.parent.parent, None)
    schema = lance_rows.schema_of(dataset)
    (first, second, *_) = dataset.samples(0, dataset.frames.read_index(0))
    rows = [lance_rows.row_of(sample, schema) for sample in (first, second)]
    for name in schema.names:
        mixed = rows[0].set_column(schema.get_field_index(name), schema.field(name), rows[1].column(name))
        differs = rows[0].column(name) != rows[1].column(name)
        assert (lance_rows.row_digest(mixed) != lance_rows.row_digest(rows[0])) == differs


def test_chosen_token_sets_and_refusals(tokens: TokenSet, tmp_path: Path) -> None:
    dataset, out = tokens.path.parent.parent, tmp_path / "out"
    assert export_data(dataset, out, "webdataset", ["other"])["token_sets"] == ["other"]
    with tarfile.open(out / "part-00000.tar") as tar:
        assert not [name for name in tar.getnames() if "test-v2" in name]
    with pytest.raises(UserError, match=r"an export to webdataset of frames \w+ with other \(\w+\), not to"):
        export_data(dataset, out, "webdataset")
    with pytest.raises(UserError, match=r"no token set 'oter'; did you mean 'other'\? it has other, test-v2"):
        export_data(dataset, tmp_path / "none", "webdataset", ["oter"])
    with pytest.raises(UserError, match=r"contains \S+ and no export; give another `out`"):
        export_data(dataset, tokens.path, "webdataset")
    ran = CliRunner().invoke(cli.app, ["export-data", str(dataset), "--to", "webdataset", "--out", "s3://bucket/x"])
    assert "exports are written to a local folder" in str(ran.exception)
    with pytest.raises(UserError, match=r"no frames/ in it"):
        export_data(tmp_path, tmp_path / "none", "webdataset")
    assert not (tmp_path / "none").exists()
