"""The snippets of docs/how-to/read-shards.md run on a small dataset, each where its program is installed."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.support.builders import make_token_set

BLOCKS = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "how-to" / "read-shards.md").read_text(), re.DOTALL)
EXPECTED = ["(3, 16)", "samples", "frames", "count", "0000.mp4", "(96, 72)", "(3, 64, 64, 3) (3, 4, 4)"]
OPTIONAL = ("duckdb", "polars", "pandas", "datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_token_set(folder / "datasets/mine", num_samples=4, sources_per_part=2, frames=3)
    return folder


@pytest.mark.parametrize(("code", "expected"), zip(BLOCKS, EXPECTED, strict=True))
def test_a_snippet_of_the_page_runs(
    code: str, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in OPTIONAL:
        if re.search(rf"^(import|from) {name}\b", code, re.MULTILINE):
            pytest.importorskip(name, reason=f"no {name}; to test it, install the extra `readers`")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    exec(code, {})
    assert expected in capsys.readouterr().out
