"""The examples of docs/how-to/python.md run, one after another, on a few tiny videos."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video

SHORTER = ('"loop.max_steps=20"', '"loop.max_steps=1", "loop.num_workers=0"')


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, name in enumerate(("left", "right")):
        for number in range(4):
            write_video(
                tmp_path / "videos" / name / f"{number}.mp4", moving_frames(36, 80, 96, seed=2 * number + label)
            )
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "how-to" / "python.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 10
    with without_ray():
        for block in blocks:
            exec(block.replace(*SHORTER), {})
    printed = capsys.readouterr().out
    assert "['left', 'left', 'left', 'left']" in printed and "videos/left/0.mp4 [{'name': " in printed


def test_the_page_names_all_that_is_public() -> None:
    import bevt_core

    page = (REPO / "docs" / "how-to" / "python.md").read_text()
    table = re.search(r"^\| for \| names \|\n(.*?)\n\n", page, flags=re.MULTILINE | re.DOTALL)
    assert table and sorted(re.findall(r"`(\w+)`", table[1])) == sorted(bevt_core.__all__)


def test_the_page_imports_by_the_name_that_is_ours_alone() -> None:
    page = (REPO / "docs" / "how-to" / "python.md").read_text()
    assert not re.findall(r"^from (?:cli|schemas|pipeline|trainer)\b.*", page, flags=re.MULTILINE)
