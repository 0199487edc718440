"""The text of a problem says once what is wrong: no path, no advice and no error inside an error."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bevt_core.storage.files import sha256_of
from pipeline.check.verify import verify
from schemas.errors import DAMAGED
from tests.support.builders import make_token_set

PART = "frames/part-00000"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root)
    return root


def edit(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def committed_rubbish(part: Path, name: str) -> None:
    """Replace a file of the part, and its digest in the commit."""
    (part / name).write_text("xxxx")
    files = json.loads((part / "commit.json").read_text())["files"]
    files[name] = {"sha256": sha256_of(part / name), "num_bytes": 4}
    edit(part / "commit.json", "files", files)


# damage -> the start of its problem's text
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated plan": (lambda d: (d / "frames/plan.json").write_text('{"a": 1'), "line 1: JSON that ends early"),
    "a plan without keys": (lambda d: (d / "frames/plan.json").write_text("{}"), "dataset: missing"),
    "a truncated commit": (lambda d: (d / PART / "commit.json").write_text("{"), "commit.json, line 1: JSON that ends"),
    "a wrong number": (lambda d: edit(d / PART / "commit.json", "num_frames", -1), "commit.json: num_frames: expected"),
    "no list of sources": (lambda d: (d / "frames/sources.parquet").write_text("x"), "not a Parquet file"),
    "no table": (lambda d: committed_rubbish(d / PART, "rejected.parquet"), "rejected.parquet: not a Parquet file"),
    "no metadata": (
        lambda d: committed_rubbish(d / PART, "frames.zarr/jpeg/zarr.json"),
        "frames.zarr/jpeg/zarr.json: not a JSON object",
    ),
    "a digest": (
        lambda d: edit(d / "frames/dataset.json", "parts_digest", "0" * 64),
        "parts_digest is '000000000000', expected '",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_problem_is_one_plain_sentence(name: str, whole: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "set"
    shutil.copytree(whole, dataset)
    damage, expected = DAMAGE[name]
    damage(dataset)
    problem = verify(dataset, sample=0)["problems"][0]["problem"]
    assert problem.startswith(expected)
    assert str(dataset) not in problem and DAMAGED not in problem
    assert re.search("[0-9a-f]{13}", problem) is None
