"""Impossible index rows: every reader rejects them with one error that names the part, the row and the value."""

import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bevt_core.dataset.commits import digest_of
from bevt_core.dataset.frame_rows import BadRow, check_index
from bevt_core.dataset.frame_store import FrameStore, read_frame_commit
from bevt_core.dataset.source_list import read_plan
from bevt_core.storage.files import read_record, write_record
from pipeline.check.verify import verify
from pipeline.job.commits import frame_commits
from pipeline.job.tokenize_part import open_frame_part
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest
from tests.support.builders import make_token_set
from tests.support.hostile import recommit

FRAMES = 4  # of a sample
EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "a class too high": ({"label": 2}, "label 2, expected 0 to 1"),
    "a negative class": ({"label": -1}, "label -1, expected 0 to 1"),
    "a negative count": ({"num_frames": -1}, "num_frames -1, expected 0 to"),
    "a negative start": ({"frame_start": -7}, "frame_start -7, expected 0 to"),
    "a start beyond all frames": ({"frame_start": 2**60}, f"frame_start {2**60}, expected 0 to"),
    "no height": ({"height": 0}, "height 0, expected at least 1"),
    "a negative width": ({"width": -96}, "width -96, expected at least 1"),
    "the id of another sample": ({"sample_id": "0002.mp4"}, "the sample id of an earlier row, expected each id once"),
    "a negative frame index": ({"frame_indices": [-2, 1, 2, 3]}, "-2 in frame_indices, expected non-decreasing"),
    "a falling frame index": ({"frame_indices": [0, 5, 2, 3]}, "2 after 5 in frame_indices, expected non-decreasing"),
    "a missing frame index": ({"frame_indices": [0, None, 2, 3]}, "None in frame_indices, expected non-decreasing"),
    "too few frame indices": ({"frame_indices": [0, 1]}, "2 frame_indices, expected 4, one per frame"),
    "a time that is no number": (
        {"times_s": [0.0, math.nan, 0.2, 0.3]},
        "nan in times_s, expected finite, non-decreasing",
    ),
    "an infinite time": ({"times_s": [0.0, 0.1, 0.2, math.inf]}, "inf in times_s, expected finite, non-decreasing"),
    "a falling time": (
        {"times_s": [0.0, 0.2, 0.1, 0.3]},
        "0.1 after 0.2 in times_s, expected finite, non-decreasing",
    ),
    "too many times": ({"times_s": [0.0] * 5}, "5 times_s, expected 4, one per frame"),
}  # of the second sample of the second part


def read_to_tokenize(dataset: Path) -> object:
    commit = read_frame_commit(dataset / "frames", 1, FrameStore(dataset / "frames").manifest.plan_digest)
    assert commit is not None
    with open_frame_part(dataset / "frames", commit) as part:
        return part.index


def read_to_verify(dataset: Path) -> object:
    problem, *_ = verify(dataset, sample=0)["problems"]
    raise BadRow("{path}/{problem}; {mend}".format(**problem))


def read_samples(dataset: Path) -> object:
    (dataset / "frames" / "samples.json").unlink()  # as in a store of an older version
    return FrameStore(dataset / "frames").samples


READERS: dict[str, Callable[[Path], object]] = {
    "one part": lambda dataset: FrameStore(dataset / "frames").read_index(1),
    "all parts": lambda dataset: FrameStore(dataset / "frames").index,
    "all samples": read_samples,
    "tokenizing": read_to_tokenize,
    "verify": read_to_verify,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    make_token_set(root, num_samples=4, sources_per_part=2, frames=FRAMES)
    return root


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def edit_row(dataset: Path, part: int, row: int, values: Mapping[str, Any]) -> None:
    """Change a row of a part's index, and the part's commit accordingly."""
    path = dataset / "frames" / f"part-{part:05d}" / "index.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[row].update(values)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    recommit(path.parent)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("edit", EDITS)
def test_a_row_that_cannot_be_is_one_error(dataset: Path, edit: str, reader: str) -> None:
    values, message = EDITS[edit]
    edit_row(dataset, 1, 1, values)
    if reader == "tokenizing" and "label" in values:
        assert read_to_tokenize(dataset)  # labels are not read
        return
    sample = values.get("sample_id", "0003.mp4")
    expected = f"row 1, sample '{sample}', has {message}"
    with pytest.raises(BadRow, match=rf"part-00001/index\.parquet: .*{re.escape(expected)}") as error:
        READERS[reader](dataset)
    assert "bevt repair" in str(error.value) and "\n" not in str(error.value)


def test_the_same_id_in_two_parts_is_one_error(dataset: Path) -> None:
    edit_row(dataset, 1, 1, {"sample_id": "0001.mp4"})
    FrameStore(dataset / "frames").read_index(1)
    path = dataset / "frames" / "dataset.json"
    manifest = read_record(path, FrameStoreManifest)
    commits = frame_commits(dataset / "frames", read_plan(dataset / "frames"))
    digest = digest_of([commit.digest() for commit in commits.values()])
    write_record(path, manifest.model_copy(update={"parts_digest": digest}))
    for read in (READERS["all parts"], read_to_verify, read_samples):
        with pytest.raises(
            UserError, match=r"part-00001/index.parquet: row 1, sample '0001.mp4', has the sample id of an"
        ):
            read(dataset)


def test_equal_times_negative_times_and_repeated_frames_are_read(dataset: Path) -> None:
    """A file may begin before zero, and a variable frame rate may give equal times; the format allows both."""
    edit_row(dataset, 1, 0, {"times_s": [-0.1, 0.0, 0.0, 0.1], "frame_indices": [0, 0, 1, 1]})
    assert FrameStore(dataset / "frames").index["times_s"][2].as_py() == [-0.1, 0.0, 0.0, 0.1]


def test_a_store_without_classes_has_no_labels(dataset: Path) -> None:
    index = FrameStore(dataset / "frames").read_index(0)
    unlabelled = index.set_column(2, index.schema.field("label"), pa.nulls(len(index), pa.int32()))
    assert check_index(unlabelled, dataset, num_classes=0) is unlabelled
    with pytest.raises(BadRow, match=r"row 0, sample '0000\.mp4', has label 0, expected 0 to -1"):
        check_index(index, dataset, num_classes=0)
