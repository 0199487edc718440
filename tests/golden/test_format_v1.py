"""Format version 1 is what it was: the committed dataset still reads, and writing it again gives its bytes."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import zarr

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from tests.golden.golden_dataset import ITEMS, TOKEN_PLAN, jpeg, write_golden

GOLDEN = Path(__file__).parent / "format-v1"
WRITTEN_WITH = {"pyarrow": "26.0.1", "zarr": "3.1.6"}  # they put their own version or layout into the bytes


def test_the_committed_dataset_reads() -> None:
    token_set = TokenSet(GOLDEN / "tokens" / TOKEN_PLAN.name)
    index = token_set.frames.index.to_pylist()
    assert [row["source"] for row in index] == [ITEMS[0].source, ITEMS[1].source]
    assert index[1]["frame_start"] == 2 and index[1]["warnings"] == ["rotated by 90 degrees"]
    assert [bytes(data) for data in token_set.frames.read_jpegs(0, 2, 3)] == [jpeg(1, frame) for frame in range(3)]
    view = token_set.read_view(0, 1)
    assert view.views[0].jitter == (("contrast", 1.25), ("brightness", 0.75)) and view.views[0].flip
    assert (view.tokens[1] == np.arange(12).reshape(3, 2, 2) + 100).all()
    assert FrameStore(GOLDEN / "frames").manifest.rejected == {"empty": 1}
    assert pq.read_table(GOLDEN / "frames" / "part-00000" / "rejected.parquet")["source"][0].as_py() == ITEMS[2].source


def test_writing_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    here = {"pyarrow": pyarrow.__version__, "zarr": zarr.__version__}
    if here != WRITTEN_WITH:
        pytest.skip(f"bytes are pinned for {WRITTEN_WITH}, this is {here}")
    write_golden(tmp_path)
    names = {path.relative_to(GOLDEN) for path in GOLDEN.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name
