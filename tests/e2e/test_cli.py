"""The command line as a new user meets it: help, examples, and one clear error for bad input."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.console.command_table import Command, Group

REPO = Path(__file__).resolve().parents[2]


def _commands() -> dict[str, Command]:
    """Every command and sub-command, `train` or `runs list`, with its entry in the table."""
    found: dict[str, Command] = {}
    for name, entry in [each for table in cli.PANELS.values() for each in table.items()]:
        inner = entry.commands if isinstance(entry, Group) else {"": entry}
        found |= {f"{name} {each}".strip(): command for each, command in inner.items()}
    return found


def _lists() -> list[tuple[list[str], list[str]]]:
    """The lists of commands in the help, as arguments before --help and the lines that it has to have."""
    groups = {name: entry for table in cli.PANELS.values() for name, entry in table.items() if isinstance(entry, Group)}
    lists = {(): {name: each for table in cli.PANELS.values() for name, each in table.items()}}
    lists |= {(name,): dict(group.commands) for name, group in groups.items()}
    return [
        ([*arguments], [f"  {name.ljust(max(map(len, table)))}  {each.help}" for name, each in table.items()])
        for arguments, table in lists.items()
    ]


OUR_FILES = 12  # with code that `bevt --help` imports: it may become less
ALL_MODULES = 105  # on Python 3.11 with the versions of constraints.txt, beyond those of the bare interpreter


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


@pytest.mark.parametrize("command", _commands())
def test_every_command_shows_its_sentence_and_an_example(command: str) -> None:
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"], terminal_width=100)
    assert result.exit_code == 0
    assert result.stdout.split("\n\n")[1].strip() == _commands()[command].help
    assert f"  bevt {command}" in result.stdout


@pytest.mark.parametrize(("arguments", "lines"), _lists(), ids=lambda value: " ".join(value) if value else "bevt")
def test_the_list_of_commands_has_a_line_for_each(arguments: list[str], lines: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, [*arguments, "--help"], terminal_width=100).stdout.splitlines()
    assert set(lines) <= set(shown)
    for line in lines:
        assert len(line) <= 100 and line.endswith(".") and line.count(". ") == 0 and "..." not in line


def test_the_version_is_that_of_the_package() -> None:
    ran = CliRunner().invoke(cli.app, ["--version"])
    assert ran.exit_code == 0 and ran.stdout == f"bevt {version('bevt')}\n"


def test_commands_are_grouped() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], terminal_width=100).stdout.splitlines()
    titles = [line.removesuffix(":") for line in shown if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", "Data", "Pretrain", "Fine-tune & test", "Look", "Share", "Measure"]


def test_commands_are_completed() -> None:
    """`bevt to<TAB>` in bash."""
    environment = {"_BEVT_COMPLETE": "complete_bash", "COMP_WORDS": "bevt to", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['bevt']; import cli; cli.app()"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=os.environ | environment
    )
    assert ran.stdout.split() == ["tokenize", "tokenizer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize", "--dataset", "k400", "--root", "/no/such/root", "--out", "o"], "/no/such/root"),
        (["tokenize", "--dataset", "k400", "--set", "views.num_view=1"], "did you mean 'num_views'"),
        (["train", "joints"], "expected one of image, video, joint"),
        (["train", "joint", "--video-tokens", "/no/such/set"], "/no/such/set"),
        (["train", "joint", "--recipe", "nano_joints"], "did you mean 'nano_joint'"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.app(arguments)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "k4000"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 2 and "did you mean 'k400'" in ran.stderr and "Traceback" not in ran.stderr
