"""The library's errors name arguments and recipe keys; only the command line knows options (command_line.py)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("pipeline/job", "pipeline/check", "trainer/pretrain", "trainer/testing", "bevt_core/tokenizers")
COMMAND = re.compile("^bevt .*|`bevt [^`]*`")  # a whole command line may be quoted


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module, except docstrings."""
    inner: set[int] = set()  # docstrings, and the parts of f-strings
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inner |= set(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


@pytest.mark.parametrize("package", PACKAGES)
def test_messages_name_no_options(package: str) -> None:
    for path in sorted((REPO / package).rglob("*.py")):
        for text in texts(ast.parse(path.read_text())):
            assert re.search(r"(?<!\S)--[a-z]", COMMAND.sub("", text)) is None, f"{path}: {text}"
