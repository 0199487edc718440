"""`bevt bench tokenize`: a failure or the end of a measured process is reported to the user once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.bench import job as bench
from pipeline.bench.job import copy_videos, measure
from schemas.errors import UserError
from tests.support.tiny_jobs import save_tiny_tokenizer, tiny_recipe


def test_an_error_in_a_measured_process_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path / "absent", tmp_path / "out", save_tiny_tokenizer(tmp_path / "tokenizer"))
    with pytest.raises(SystemExit) as ended:
        measure([sys.executable, "-c", bench._JOB, recipe.model_dump_json(), "1"])
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_sigterm_ends_the_measured_process(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def end() -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(SystemExit) as ended:
        measure([sys.executable, "-c", code])
    assert ended.value.code == 143
    assert subprocess.run(["kill", "-0", started.read_text()], capture_output=True).returncode != 0


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos"):
        copy_videos(tmp_path, tmp_path / "work", 2)
