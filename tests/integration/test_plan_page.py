"""The plan that docs/how-to/one-gpu.md shows is the one that its command prints."""

import re

import pytest
from typer.testing import CliRunner

import cli
from tests.conftest import REPO


@pytest.mark.slow
def test_the_page_shows_the_plan_of_its_command() -> None:
    page = (REPO / "docs" / "how-to" / "one-gpu.md").read_text()
    ((command, shown),) = re.findall(r"```bash\nbevt (plan .*)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    printed = CliRunner().invoke(cli.app, command.split()).output
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        " ".join(line.split()) for line in printed.splitlines()[: len(shown.splitlines())]
    ]
