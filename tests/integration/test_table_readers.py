"""Other programs read a dataset's Parquet files: equal tokens and index. Versions: docs/reference/format.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bevt_core import FrameStore
from tests.conftest import REPO
from tests.support.builders import make_token_set

NEEDS = "to test it, install the extra `readers`"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_token_set(root, num_samples=6, sources_per_part=6, frames=4, vocab_size=8192)
    return root


def with_duckdb(path: str) -> tuple[int, list[str], list[Any] | None]:
    duckdb = pytest.importorskip("duckdb", minversion="2.0", reason=f"no DuckDB 2; {NEEDS}")
    table = duckdb.sql(f"SELECT * FROM '{path}'")
    tokens = [row[0] for row in table.select("tokens").fetchall()] if "tokens" in table.columns else None
    return len(table), table.columns, tokens


def with_polars(path: str) -> tuple[int, list[str], list[Any] | None]:
    polars = pytest.importorskip("polars", minversion="1.18", reason=f"no Polars 1.18; {NEEDS}")
    table = polars.read_parquet(path)
    return len(table), table.columns, table["tokens"].to_list() if "tokens" in table.columns else None


def with_pandas(path: str) -> tuple[int, list[str], list[Any] | None]:
    pandas = pytest.importorskip("pandas", reason=f"no pandas; {NEEDS}")
    table = pandas.read_parquet(path, engine="pyarrow")
    return len(table), list(table.columns), list(table["tokens"]) if "tokens" in table.columns else None


def with_datasets(path: str) -> tuple[int, list[str], list[Any] | None]:
    datasets = pytest.importorskip("datasets", reason=f"no datasets; {NEEDS}")
    rows = list(datasets.load_dataset("parquet", data_files=path, split="train", streaming=True))
    return len(rows), list(rows[0]), [row["tokens"] for row in rows] if "tokens" in rows[0] else None


READERS: dict[str, Callable[[str], tuple[int, list[str], list[Any] | None]]] = {
    "DuckDB": with_duckdb,
    "Polars": with_polars,
    "pandas": with_pandas,
    "datasets": with_datasets,
}


def as_lists(value: Any) -> Any:
    """Nested arrays of objects, as pandas has them, as lists."""
    return [as_lists(inner) for inner in value] if isinstance(value, list | np.ndarray) else value


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_finds_the_same_tokens_and_index(reader: str, dataset: Path) -> None:
    for name in ("tokens/test-v2/part-00000.parquet", "frames/part-00000/index.parquet"):
        expected = pq.read_table(dataset / name)
        count, columns, tokens = READERS[reader](str(dataset / name))
        assert (count, columns) == (len(expected), expected.column_names)
        if tokens is not None:
            np.testing.assert_array_equal(as_lists(tokens), expected["tokens"].to_pylist())


def test_datasets_reads_the_tables_that_the_card_lists(dataset: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason=f"no datasets; {NEEDS}")
    from pipeline.share.card import README, card

    (dataset / README).write_text(card(["frames", "tokens/test-v2"]))
    options = {"split": "train", "cache_dir": str(tmp_path)}
    tokens = datasets.load_dataset(str(dataset), "tokens-test-v2", **options)
    expected = pq.read_table(dataset / "tokens" / "test-v2" / "part-00000.parquet")["tokens"].to_pylist()
    assert list(tokens["tokens"]) == expected
    assert len(datasets.load_dataset(str(dataset), "frames-index", **options)) == 6


def test_datasets_has_the_stored_frames_as_pictures(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/how-to/share-on-the-hub.md: the bytes of every frame, in order."""
    datasets = pytest.importorskip("datasets", reason=f"no datasets; {NEEDS}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    page = (REPO / "docs" / "how-to" / "share-on-the-hub.md").read_text()
    *_, code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace("datasets/mine", str(dataset)), found)
    store = FrameStore(dataset / "frames")
    expected = [jpeg.tobytes() for jpeg in store.read_jpegs(0, 0, 24)]
    stored = found["pictures"].cast_column("image", datasets.Image(decode=False))
    assert [row["image"]["bytes"] for row in stored] == expected and stored["frame"][:5] == [0, 1, 2, 3, 0]


def test_fastparquet_reads_the_flat_columns(dataset: Path) -> None:
    """It has no lists of lists: it shows missing values in their place, without an error."""
    fastparquet = pytest.importorskip("fastparquet", reason=f"no fastparquet; {NEEDS}")
    path = dataset / "tokens" / "test-v2" / "part-00000.parquet"
    flat = ["sample_id", "view", "top_px", "left_px", "flip"]
    found = fastparquet.ParquetFile(str(path)).to_pandas(columns=flat)
    assert found.to_dict("list") == pq.read_table(path, columns=flat).to_pydict()
    assert set(fastparquet.ParquetFile(str(path)).to_pandas()["tokens"]) == {None}
