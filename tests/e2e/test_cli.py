"""The command line as a new user meets it: help, examples, and one clear error for bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cli

REPO = Path(__file__).resolve().parents[2]


def bevt(*arguments: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def _commands() -> list[list[str]]:
    root = typer.main.get_command(cli.app)
    names = []
    for name, command in root.commands.items():
        names += [[name, inner] for inner in command.commands] if hasattr(command, "commands") else [[name]]
    return names


OUR_FILES = 24  # with code that `bevt --help` imports: it may become less
ALL_MODULES = 124  # on Python 3.11 with the versions of constraints.txt, beyond those of the bare interpreter


def test_help_needs_no_heavy_import() -> None:
    code = "import sys; bare = set(sys.modules); import cli; sys.argv = ['bevt', '--help']\n"
    code += "try: cli.app()\nfinally: print(*sorted(set(sys.modules) - bare))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    loaded = ran.stdout.splitlines()[-1].split()
    heavy = {"torch", "ray", "numpy", "pyarrow", "pydantic", "zarr", "yaml", "av", "PIL"}
    assert heavy.isdisjoint(loaded)
    packages = {name.rpartition(".")[0] for name in loaded}  # of ours, their own files hold a docstring
    ours = [name for name in loaded if name.split(".")[0] in {"schemas", "bevt_core", "pipeline", "trainer", "cli"}]
    assert len(set(ours) - packages) <= OUR_FILES, ours
    assert len(loaded) <= ALL_MODULES + 40, "other versions import a few more, but not so many"


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_shows_an_example(command: list[str]) -> None:
    result = bevt(*command, "--help")
    assert result.returncode == 0
    assert f"  bevt {' '.join(command)}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize", "--dataset", "k4000"], "did you mean 'k400'"),
        (["tokenize", "--dataset", "k400", "--root", "/no/such/root", "--out", "o"], "/no/such/root"),
        (["tokenize", "--dataset", "k400", "--set", "views.num_view=1"], "did you mean 'num_views'"),
        (["train", "joints"], "expected one of image, video, joint"),
        (["train", "joint", "--video-tokens", "/no/such/set"], "/no/such/set"),
        (["train", "joint", "--recipe", "nano_joints"], "did you mean 'nano_joint'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = bevt(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
