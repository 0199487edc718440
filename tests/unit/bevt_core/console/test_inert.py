"""Untrusted text in every kind of output is shown literally."""

import csv
import io
import logging
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from bevt_core.console.command_line import App
from bevt_core.console.inert import csv_text, html_text, lines, markdown_code, one_line, text_of_csv
from bevt_core.console.terminal import emit, warn
from bevt_core.reporting.charts import curves_png
from bevt_core.reporting.page import Page, markdown_table
from bevt_core.reporting.pictures import sheet
from schemas.errors import UserError
from tests.support.hostile_names import NAMES, PageCheck, controls_in, formulas_in
from trainer.testing.tables import confusion_picture, csv_bytes


def test_one_line_shows_every_character_that_acts() -> None:
    acting = [
        chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    shown = one_line("".join(acting))
    assert controls_in(shown) == {"\u200c", "\u200d"}  # joiners, inside words and emoji
    assert one_line("\x1b[2J\r\n\x9b\u202e\ud800\U000e0041") == r"\x1b[2J\x0d\x0a\x9b\u202e\ud800\U000e0041"
    for name in ("größe/ñandú 東京　駅.mp4", "a \\ b", "क्ष 👩‍👩‍👧"):
        assert one_line(name) == name


@given(st.text())
@settings(max_examples=50)
def test_csv_gives_every_text_back(text: str) -> None:
    cell = csv_text(text)
    assert text_of_csv(cell) == text
    assert not controls_in(cell) - {"\u200c", "\u200d"} and not formulas_in([cell])


def test_csv_keeps_rows_and_numbers() -> None:
    rows: list[list[object]] = [["class", "n"], *([name, -1.5] for name in NAMES), ["-2", np.int64(3)], ["+1e-3", "5%"]]
    found = list(csv.reader(io.StringIO(csv_bytes(rows).decode())))
    assert [len(row) for row in found] == [2] * len(rows)
    assert [row[1] for row in found[1:-2]] == ["-1.5"] * len(NAMES) and found[-2:] == [["-2", "3"], ["+1e-3", "5%"]]
    assert [text_of_csv(row[0]) for row in found[1:-2]] == list(NAMES)


def test_a_page_shows_names_and_obeys_none(tmp_path: Path) -> None:
    page = Page(NAMES[0])
    for name in NAMES:
        page.heading(name)
        page.text(name)
        page.table([name], [[name], [2.0]])
        page.picture(b"png", name)
    page.save(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    checked = PageCheck(html)
    assert checked.faults == [] and not controls_in(html.replace("\n", ""))
    assert "".join(checked.text).count("<script>alert(1)") == 7
    assert PageCheck(html.replace("max-width: 72rem", "")).faults == ["a style sheet that the policy does not name"]
    assert html_text('" x="') == "&quot; x=&quot;"


@pytest.mark.parametrize("name", [*NAMES, "a\\|b", "a\\", "`", "https://evil.example", "*a*", "~~a~~", "[a]: b"])
def test_markdown_shows_names_and_obeys_none(name: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(markdown_table((name, "b"), [(name, "x"), (markdown_code(name), 1.0)]))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 6
    for cell in cells:
        inner = [token for token in cell.children or [] if token.content not in ("<code>", "</code>")]
        assert {token.type for token in inner} <= {"text", "text_special"}
    assert cells[0].children is not None
    assert "".join(token.content for token in cells[0].children) == one_line(name)


def test_markdown_links_nothing() -> None:
    assert "https\\://x" in markdown_table((), [("https://x",)]) and "www\\.x" in markdown_table((), [("www.x",)])


def test_pictures_take_any_name() -> None:
    """Matplotlib parses `$` as mathematics, and omits curves named `_x` from its legend."""
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    names = [*NAMES, "_hidden", "x" * 5000]
    for label in names:
        np.testing.assert_array_equal(sheet([[frame]], [label]), sheet([[frame]], [lines(label)]))
    drawn = curves_png({name: ([0, 1], [0, 1]) for name in names[:4]}, "x", NAMES[1])
    assert Image.open(io.BytesIO(drawn)).width == 660
    assert curves_png({"_a": ([0], [0])}, "x", "y") != curves_png({"_b": ([0], [0])}, "x", "y")
    assert confusion_picture(np.eye(2, dtype=np.int64), names[1:3]).startswith(b"\x89PNG")


def test_a_result_and_a_warning_are_lines_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit({name: {name: 1.5, "list": [name]} for name in NAMES} | {"key": "HF_TOKEN=abcdefgh"}, as_json=False)
    emit({name: name for name in NAMES}, as_json=True)
    for name in NAMES:
        warn(name)
    out, err = capsys.readouterr()
    assert not controls_in(out + err) and "abcdefgh" not in out
    assert len(out.splitlines()) == 3 * len(NAMES) + 2 and len(err.splitlines()) == len(NAMES)


BAD = "x\x1b]0;t\x07\nerror: forged AKIA" + "IOSFODNN7EXAMPLE"
app = App("A command for tests.")


@app.command()
def fails() -> None:
    logging.getLogger("a library").warning(BAD)
    warnings.warn(BAD, stacklevel=1)
    raise UserError(BAD)


@app.command()
def breaks() -> None:
    raise RuntimeError(BAD)


@app.command()
def works() -> None:
    pass


@pytest.mark.parametrize(
    ("arguments", "status", "count"),
    [(["fails"], 2, 3), (["fails", f"--{BAD}"], 2, 1), ([BAD.replace("\n", " ")], 2, 0), (["works"], 0, 0)],
)
def test_whatever_a_command_ends_with_is_plain_text(
    arguments: list[str], status: int, count: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # removes pytest's, so that Python uses logging.lastResort
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("always")
        app(arguments)
    assert (ended.value.code or 0) == status
    out, err = capfd.readouterr()
    assert (
        not controls_in(out + err)
        and "IOSFODNN7" not in err
        and err.count(r"x\x1b]0;t\x07\x0aerror: forged ***") == count
    )
    assert not any(line.startswith("error: forged") for line in err.splitlines())


def test_a_traceback_is_plain_text(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as raised:
        app(["breaks"])
    sys.excepthook(raised.type, raised.value, raised.tb)
    out, err = capfd.readouterr()
    assert not controls_in(out + err) and "IOSFODNN7" not in err
    assert r"RuntimeError: x\x1b]0;t\x07" in err and "Traceback" in err
