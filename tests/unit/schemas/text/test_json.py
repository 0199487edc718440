"""JSON: written so that every parser can read it, and parsed with bounded size."""

import ast
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from bevt_core.console.terminal import emit
from bevt_core.storage.files import MAX_RECORD_BYTES, read_record
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest
from schemas.text.json_text import MAX_BYTES, MAX_VALUES, json_text, parse_json
from trainer.metrics.log import read_metrics

REPO = Path(__file__).resolve().parents[4]


def test_what_json_has_no_words_for_is_null() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": (1, None, "NaN"), "e": True}
    expected = {"a": None, "b": [1.5, None, {"c": None}], "d": [1, None, "NaN"], "e": True}
    assert json.loads(json_text(value, indent=1)) == expected


def test_a_result_on_the_terminal_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"loss": math.nan, "top1": {"best": math.inf}}, as_json=True)
    assert capsys.readouterr().out == '{"loss": null, "top1": {"best": null}}\n'


def test_all_json_is_written_by_one_function() -> None:
    callers = {
        str(path.relative_to(REPO))
        for folder in ("schemas", "bevt_core", "pipeline", "trainer", "benchmarks", ".")
        for path in (REPO / folder).glob("*.py" if folder == "." else "**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("dumps", "dump") and ast.unparse(node.value) == "json"
    }
    assert callers == {"schemas/text/json_text.py", "schemas/base.py"}  # the second for digests, which refuse NaN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nests too deeply"),
        ('{"a":' * 100_000, "nests too deeply"),
        ("[" + "{}," * MAX_VALUES + "{}]", f"more than {MAX_VALUES} values"),
        ('["' + "x" * MAX_BYTES + '"]', "50 MB of JSON, expected at most 50 MB"),
        ("[" + "9" * 5000 + "]", "not JSON: 'Exceeds the limit"),
        ("[NaN]", "NaN is not a JSON number"),
        ("{}", "the content is {}, expected a list"),
    ],
)
def test_bombs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_json(text, list, "x.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 1_000_000, "nests too deeply"),
        (b'{"num_parts": ' + b"9" * 5000 + b"}", "not JSON: 'Exceeds the limit"),
        (b'{"dataset": [' + b"1," * 100_000 + b"1]}", r"dataset: expected text \(given \[1, 1, "),
        (b'{"x' + b"x" * 100_000 + b'": 1}', "and 10 more problems"),
        (b" " * (MAX_RECORD_BYTES + 1), r"4.2 MB, expected a file of at most 4.2 MB"),
    ],
)
def test_a_record_that_is_none_ends_in_a_short_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "dataset.json").write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_record(tmp_path / "dataset.json", FrameStoreManifest)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_pipe_in_a_records_place_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(UserError, match="a device or pipe, expected a file"):
        read_record(tmp_path / "dataset.json", FrameStoreManifest)


@pytest.mark.parametrize("line", ["[1]", "{", '{"a": NaN}'])
def test_a_log_with_a_broken_line_names_it(tmp_path: Path, line: Any) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        read_metrics(tmp_path)
