"""A disk that is full, or read-only, for real: a tmpfs in a mount namespace of the command's own."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bevt_core.dataset.token_set import TokenSet
from tests.support.media import moving_frames, write_video


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user")
    return folder


@pytest.fixture
def job(tmp_path: Path, out: Path, tiny_tokenizer: Path) -> str:
    """The command line, quoted for a shell."""
    for i in range(8):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(10 + i, 120, 160, seed=i))
    places = ["--root", tmp_path / "root", "--out", out, "--tokenizer", tiny_tokenizer]
    small = ["--set", "sources_per_part=2", "--set", "pool.max_frames=6"]
    command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "folder", "--recipe", "nano_video"]
    return shlex.join(map(str, [*command, *places, *small]))


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300)


def test_a_read_only_target_is_one_clear_error(out: Path, job: str) -> None:
    done = in_namespace(f"mount -t tmpfs -o ro tmpfs {out}; {job}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {out}: the file system is read-only; choose a writable")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle(out: Path, job: str, tmp_path: Path) -> None:
    """A worker meets it; when there is room again, the same command goes on with what is missing."""
    script = f"mount -t tmpfs -o size=100k tmpfs {out}; {job}; echo exit $?; find {out} -name dataset.json; "
    script += f"mount -o remount,size=50m {out}; {job} && cp -r {out} {tmp_path}/copy"
    done = in_namespace(script)
    assert done.stdout.startswith("exit 2\n"), done  # with no dataset.json, and no summary
    assert re.search(r"the disk is full \(.* of 0\.1 MB free\); free some space and run the same", done.stderr)
    assert "Traceback" not in done.stderr
    assert re.search(r"^indexed +8 \(", done.stdout, re.MULTILINE)
    assert TokenSet(tmp_path / "copy" / "tokens" / "dvae-v2").manifest.num_samples == 8
