"""Warnings of the library are log records; `bevt` prints them."""

import logging
from pathlib import Path

import pytest

from bevt_core.console.terminal import OUR_PACKAGES, note, print_log, warn


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Default loggers, as for a program that imports bevt."""
    for logger in map(logging.getLogger, (*OUR_PACKAGES, "tests")):
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "level", logging.NOTSET)


def test_a_library_user_gets_log_records_by_module(
    library: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        warn("an odd\nthing")
        note("a decision")
    assert caplog.record_tuples == [
        (__name__, logging.WARNING, "an odd\\x0athing"),
        (__name__, logging.INFO, "a decision"),
    ]
    assert {record.filename for record in caplog.records} == {Path(__file__).name}
    assert capsys.readouterr() == ("", "")


def test_a_library_user_can_silence_a_package(library: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger=__name__.partition(".")[0]):
        warn("an odd thing")
    assert not caplog.records


def test_bevt_prints_each_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)  # as a library's logging.basicConfig() does
    try:
        print_log((*OUR_PACKAGES, "tests"))
        print_log((*OUR_PACKAGES, "tests"))
        warn("100%s odd")
        note("a decision")
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr() == ("", "warning: 100%s odd\nnote: a decision\n")
