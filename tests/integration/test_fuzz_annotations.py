"""Damaged annotation files end in a listing or in one line for the user, within two seconds and 500 MB each.

A program of its own damages and reads them, since it limits its memory: tests/support/fuzz_child.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(mutations: int, annotations: str) -> list[tuple[str, int, str]]:
    command = [sys.executable, "-m", "tests.support.fuzz_child", str(mutations), annotations]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("mutations", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_made_files(mutations: int) -> None:
    assert fuzz(mutations, "") == []


@pytest.mark.parametrize("mutations", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_real_files(shared_data: Path, mutations: int) -> None:
    """Whole files, or the first hundreds of their lines."""
    assert fuzz(mutations, str(shared_data / "annotations")) == []
