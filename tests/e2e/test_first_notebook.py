"""docs/tutorials/first-run.ipynb is a notebook without results, and its cells run in order."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from tests.conftest import REPO
from tests.support.inline_jobs import without_ray

NOTEBOOK = REPO / "docs" / "tutorials" / "first-run.ipynb"
KEYS = {  # of a cell in nbformat 4.5; `id` matches [a-zA-Z0-9-_]+
    "markdown": {"cell_type", "id", "metadata", "source"},
    "code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"},
}


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def run(source: str, names: dict[str, Any]) -> None:
    """Run a code cell: all of its lines are `!bevt ...`, or none."""
    if not source.startswith("!"):
        exec(compile(source, "cell", "exec"), names)
        return
    for line in source.splitlines():
        words = shlex.split(line.removeprefix("!"))
        assert words[0] == "bevt", line
        result = CliRunner().invoke(cli.app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output


def test_it_is_a_notebook_without_results() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in cells():
        assert set(cell) == KEYS[cell["cell_type"]] and cell["metadata"] == {}
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert len({cell["id"] for cell in cells()}) == len(cells())


@pytest.mark.slow
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    with without_ray():
        for cell in cells():
            if cell["cell_type"] == "code":
                run("".join(cell["source"]), names)
                if "figure" in names and "subplots" in "".join(cell["source"]):
                    names["figure"].savefig(f"{cell['id']}.png")
    assert [Path(answer["video"]).name for answer in names["answers"]] == [clip.name for clip in names["clips"]]
    assert Path("masks.png").is_file() and Path("prediction.png").is_file()
