"""Modules of other projects that have our names: `bevt` and `bevt_core` name them, and do not run them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bevt_core import __main__ as start
from bevt_core.import_names import PACKAGES, collision, rival_distributions

TRAP = "open(__file__ + '.imported', 'w').close()\nraise RuntimeError(__file__)\n"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(PACKAGES)
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def installed(folder: Path, name: str, *files: str) -> None:
    """An installed distribution, as pip records it."""
    record = folder / f"{name}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (record / "RECORD").write_text("".join(f"{file},sha256=0,0\n" for file in files))


@pytest.mark.parametrize("module", ["cli.py", "schemas/__init__.py", "pipeline.py", "trainer/__init__.py"])
def test_a_file_that_hides_ours_is_named_with_a_fix(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert collision() == (
        f"Python imports {path} instead of bevt's module of this name; rename it, or take its folder off PYTHONPATH"
    )
    monkeypatch.setattr(sys, "path", [str(PACKAGES), str(tmp_path)])  # ours come first
    assert collision() is None


def test_folders_that_hide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trainer").mkdir()  # no package
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", str(tmp_path / "none"), *sys.path])
    monkeypatch.chdir(tmp_path)
    assert collision() is None
    assert _fastest_s() < 0.005  # at every start of `bevt`


def _fastest_s() -> float:
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        collision()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def test_a_project_that_installed_our_names_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "other-cli", "cli.py", "cli.pyi")
    installed(tmp_path, "other-schemas", "schemas/__init__.py", "schemas/a.py")
    installed(tmp_path, "harmless", "harmless/cli.py", "trainers/__init__.py", "harmless/schemas/__init__.py")
    installed(tmp_path, "bevt", "cli.py", "schemas/__init__.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert rival_distributions() == ["other-cli", "other-schemas"]


@pytest.mark.parametrize(("started", "names"), [("bevt_core", ("cli", "trainer")), ("cli", ("schemas", "trainer"))])
def test_the_command_refuses_a_folder_with_our_names(started: str, names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / f"{name}.py").write_text(TRAP)
    ended = run(tmp_path, "-m", started, "--version")
    assert ended.returncode == 2 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: Python imports {tmp_path / names[0]}.py (and 1 more) instead of bevt's")
    assert not list(tmp_path.glob("*.imported"))


def test_a_replaced_command_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = ModuleType("cli")
    monkeypatch.setitem(sys.modules, "cli", replaced)
    installed(tmp_path, "other-cli", "cli.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(start, "collision", lambda: None)
    for app in (None, object()):  # without `app`, and with one of its own
        if app:
            replaced.app = app  # type: ignore[attr-defined]
        with pytest.raises(SystemExit) as ended:
            start.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: other-cli installed modules with bevt's names (cli, schemas,")


def test_the_python_api_names_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").touch()
    ended = run(tmp_path, "-c", "from bevt_core import load_run")
    assert ended.stderr.splitlines()[-1].startswith(f"ImportError: Python imports {tmp_path / 'trainer.py'} instead")
