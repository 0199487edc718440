"""`make release`: version, changelog and citation change together, in a clean checkout, and nothing is pushed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow
FILES = (".ci/release.py", "pyproject.toml", "CITATION.cff", "CHANGELOG.md")
MAKEFILE = "package:\n\ttest ! -e broken\n"  # stands in for a minute of building


def release(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ".ci/release.py", *arguments], cwd=place, capture_output=True, text=True)


def git(place: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean checkout of the files that a release reads."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "a")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "a@b")
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    return tmp_path


def test_a_release_is_one_commit_and_a_tag_of_one_version(place: Path) -> None:
    shown = release(place, "9.8.7", "--dry-run").stdout
    assert '+version = "9.8.7"' in shown and "+## [9.8.7] - 20" in shown
    assert not git(place, "status", "--porcelain") and not git(place, "tag")
    done = release(place, "9.8.7")
    assert done.returncode == 0 and "git push origin HEAD v9.8.7" in done.stdout, done.stderr
    assert git(place, "tag").split() == ["v9.8.7"] and not git(place, "status", "--porcelain")
    assert release(place, "--check-tag", "v9.8.7").returncode == 0
    wrong = release(place, "--check-tag", "v9.8.8").stderr
    assert wrong.startswith("error: pyproject.toml: version 9.8.7, expected that of the tag v9.8.8")
    changelog = (place / "CHANGELOG.md").read_text()
    entries = changelog.partition("## [9.8.7]")[2]
    assert "Nothing has been released yet" not in changelog and "### Added\n\n- " in entries
    assert re.search(r"^## \[Unreleased\]\n\n## \[9\.8\.7\]", changelog, flags=re.MULTILINE)
    assert release(place, "9.8.8").stderr.startswith("error: CHANGELOG.md: no entries under ## [Unreleased]")


@pytest.mark.parametrize(
    ("version", "file", "why"),
    [
        ("1.2", None, "version '1.2', expected MAJOR.MINOR.PATCH"),
        ("1.2.3", "CHANGELOG.md", "1 uncommitted files"),
        ("1.2.3", "broken", "`make package` failed; nothing was committed"),
    ],
)
def test_nothing_is_released(place: Path, version: str, file: str | None, why: str) -> None:
    before = git(place, "log", "--format=%H")
    if file:
        with (place / file).open("a") as opened:
            opened.write("x\n")
    if file == "broken":
        (place / ".git" / "info" / "exclude").write_text("broken\n")
    refused = release(place, version)
    assert refused.returncode == 2 and f"error: {why}" in refused.stderr
    assert git(place, "log", "--format=%H") == before and not git(place, "tag")
    changed = git(place, "status", "--porcelain").split()
    assert changed == (["M", file] if file == "CHANGELOG.md" else [])
