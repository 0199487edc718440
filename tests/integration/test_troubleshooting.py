"""The troubleshooting page has every kind of error, every module that raises one, and no message that is gone."""

import ast
import re
from functools import cache

from website.messages import (
    PAGE,
    REPO,
    VALUE,
    Message,
    error_classes,
    messages,
    path_of,
    sections,
    sources,
    with_messages,
)

TEXT = (REPO / "docs" / PAGE).read_text()
MESSAGE_CELL = re.compile(r"^\| (`.+?`) \| .* \| .* \|$", re.MULTILINE)  # the first of three cells


@cache
def modules() -> dict[str, ast.Module]:
    return sources()


@cache
def found() -> tuple[Message, ...]:
    return tuple(messages(modules()))


@cache
def joined_strings() -> str:
    """The source, with the strings of several lines joined and an ellipsis for each value in them."""
    source = "\n".join((REPO / module).read_text() for module in modules())
    return re.sub(r"\{[^{}\n]*\}", VALUE, re.sub(r'"\n\s*f?"', "", source))


def test_every_class_of_error_has_a_row() -> None:
    rows = TEXT.split("## Kinds of errors")[1].split("\n## ")[0]
    assert {name for name in error_classes(modules()) if f"`{name}`" not in rows} == set()


def test_every_module_with_messages_belongs_to_a_section_and_every_path_is_used() -> None:
    paths, raising = sections(TEXT), {message.module for message in found()}
    assert {module for module in raising if path_of(module, paths) is None} == set(), "add it to a section's comment"
    assert set(paths) - {path_of(module, paths) for module in raising} == set(), "no module needs this path any more"


def test_every_message_in_the_tables_is_one_of_the_program() -> None:
    shown = [quoted for cell in MESSAGE_CELL.findall(TEXT) for quoted in re.findall("`([^`]+)`", cell)]
    assert len(shown) > 80
    strings = [message.text for message in found()]
    gone = [quoted for quoted in shown if not any(map(_pattern(quoted).search, strings))]
    assert not [quoted for quoted in gone if not _pattern(quoted).search(joined_strings())]


def test_every_reason_to_reject_a_source_is_explained() -> None:
    reasons = set(re.findall(r'MediaError\(\s*"[\w-]+",\s*"([\w-]+)"', joined_strings()))
    assert len(reasons) > 10
    assert {reason for reason in reasons if f"`{reason}`" not in TEXT} == set()


def test_the_site_lists_every_message_in_its_section() -> None:
    page, paths = with_messages(TEXT, found()), sections(TEXT)
    listed = re.findall("<li><code>(.+?)</code></li>", page)
    assert "messages of:" not in page
    assert len(listed) == len({(paths[path_of(each.module, paths) or ""], each.text) for each in found()}) > 500


def test_values_and_constants_in_a_message() -> None:
    module = ast.parse('FIX = "run it"\ndef f(a):\n raise UserError(f"{a}{a}: is {a!r}, " + "bad; " + f"{FIX}")')
    assert messages({"m.py": module}) == [Message("…: is …, bad; run it", "m.py", "UserError")]


def _pattern(quoted: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, quoted.split(VALUE))))
