"""All messages that end a command, read from the source, for the page docs/reference/troubleshooting.md.

A message is the argument of a call of UserError, StorageError, JobError or a subclass of theirs. Values that are only
known when the program runs are shown as an ellipsis. Each section of the page names the modules whose messages belong
to it, in a comment `<!-- messages of: FOLDER MODULE.py ... -->`; the longest path that fits a module counts.
"""

import ast
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")
ROOTS = frozenset({"UserError", "StorageError", "JobError"})  # the errors that the command line prints
PAGE = "reference/troubleshooting.md"  # below docs/
VALUE = "…"
COMMENT = re.compile(r"<!-- messages of: (.+?) -->")


class Message(NamedTuple):
    """A message, the module that raises it, and the class of its error."""

    text: str
    module: str
    error: str


def sources(repo: Path = REPO) -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the packages, by its path."""
    paths = (path for package in PACKAGES for path in sorted((repo / package).rglob("*.py")))
    return {path.relative_to(repo).as_posix(): ast.parse(path.read_text()) for path in paths}


def error_classes(trees: Mapping[str, ast.Module]) -> set[str]:
    """Return the names of the errors that the command line prints as one message, with all subclasses."""
    classes = [node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    bases = {node.name: {base.id for base in node.bases if isinstance(base, ast.Name)} for node in classes}
    found: set[str] = set(ROOTS)
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def messages(trees: Mapping[str, ast.Module]) -> list[Message]:
    """Return the messages of all modules; those without a word of their own, which pass on another's, are left out."""
    errors, constants = error_classes(trees), _constants(trees)
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors and node.args:
                text = text_of(node.args[-1], constants)
                if re.search("[a-z]{2}", text):
                    found.append(Message(text, module, node.func.id))
    return found


def sections(page: str) -> dict[str, str]:
    """Return the heading of the section of each path in the page's comments."""
    headings: dict[str, str] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        if comment := COMMENT.match(line):
            headings |= dict.fromkeys(comment[1].split(), heading)
    return headings


def path_of(module: str, paths: Mapping[str, str]) -> str | None:
    """Return the longest of `paths` that is the module or a folder above it."""
    fitting = [path for path in paths if module == path or module.startswith(f"{path}/")]
    return max(fitting, key=len, default=None)


def with_messages(page: str, found: Sequence[Message]) -> str:
    """Return the page with the messages of each section, as HTML, in place of its comment."""
    paths = sections(page)

    def listed(comment: re.Match[str]) -> str:
        own = comment[1].split()
        texts = sorted({message.text for message in found if path_of(message.module, paths) in own}, key=_letters)
        items = "".join(f"<li><code>{html.escape(text)}</code></li>" for text in texts)
        return f"<details><summary>All {len(texts)} messages of this kind</summary><ul>{items}</ul></details>"

    return COMMENT.sub(listed, page)


def _letters(text: str) -> str:
    """What a message is sorted by: its text without values, quotes and punctuation at its beginning."""
    return re.sub(rf"^[{VALUE}\W]+", "", text).lower()


def _constants(trees: Mapping[str, ast.Module]) -> dict[str, str]:
    """Return the texts of module-level names, if all modules that define a name give it the same one."""
    found: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.isupper():
                        found.setdefault(target.id, set()).add(text_of(node.value))
    return {name: texts.pop() for name, texts in found.items() if len(texts) == 1}


def text_of(node: ast.expr, constants: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the text of an expression, with an ellipsis for each value that is not one of the `constants`."""
    return re.sub(f"{VALUE}+", VALUE, "".join(_parts(node, constants)))


def _parts(node: ast.expr, constants: Mapping[str, str]) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if name in constants:
            yield constants[name]
        case ast.FormattedValue(value=value):
            yield from _parts(value, constants)
        case ast.JoinedStr(values=values):
            for value in values:
                yield from _parts(value, constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from _parts(left, constants)
            yield from _parts(right, constants)
        case _:
            yield VALUE
