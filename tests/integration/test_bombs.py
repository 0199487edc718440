"""Bombs end in one error within two seconds of CPU time and 500 MB beyond what the imports take.

A program of its own reads them, since it limits its memory: python -m tests.support.bombs_child.
"""

import json
import subprocess
import sys
from pathlib import Path


def test_every_bomb_ends_in_one_line() -> None:
    command = [sys.executable, "-m", "tests.support.bombs_child"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads(ended.stdout) == []
    assert int(ended.stderr.split(" attacks")[0].split()[-1]) > 45
