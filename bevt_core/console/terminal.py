"""Output of commands. Only this module and `bevt_core.console.progress` print, and they print plain text.

The library's warnings and notes are log records: programs that import bevt get them through `logging`, and the `bevt`
command prints them.

Names and error messages may contain terminal escapes, line ends and credentials; `bevt_core.console.inert` and
`schemas.text.credentials` escape and mask these.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, TextIO

from bevt_core.console.inert import lines, one_line
from bevt_core.console.progress import say
from bevt_core.console.readable import summary_lines
from schemas.text.credentials import masked
from schemas.text.json_text import json_text

OUR_PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")


def show(text: str) -> None:
    """Print to stdout. Line ends in `text` are kept, so callers pass untrusted names through `one_line` first."""
    print(lines(masked(text)), flush=True)


def warn(message: str) -> None:
    """Log a warning under the name of the calling module; `bevt` prints it to stderr as `warning: ...`."""
    _logger_of_caller().warning(one_line(masked(message)), stacklevel=2)


def note(message: str) -> None:
    """Log a decision made for the user, under the name of the calling module; `bevt` prints it as `note: ...`.

    Under torchrun only rank 0 logs it.
    """
    if os.environ.get("RANK", "0") == "0":
        _logger_of_caller().info(one_line(masked(message)), stacklevel=2)


def _logger_of_caller() -> logging.Logger:
    return logging.getLogger(sys._getframe(2).f_globals["__name__"])


def emit(summary: dict[str, Any], as_json: bool) -> None:
    """Print the result: one JSON object as the last line, or a table of rounded values with their units.

    Under torchrun only rank 0 prints.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json_text(_masked_values(summary)), flush=True)  # ASCII: control characters are escaped
    else:
        show("\n".join(summary_lines(summary)))


def _masked_values(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _masked_values(item) for key, item in value.items()}
    return [_masked_values(item) for item in value] if isinstance(value, list | tuple) else value


def plain_messages() -> None:
    """Print bevt's log records, and print tracebacks, Python's warnings and libraries' log lines as plain text."""
    print_log(OUR_PACKAGES)
    sys.excepthook = _print_traceback
    warnings.showwarning = _print_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


def print_log(packages: Iterable[str]) -> None:
    """Print warnings and notes of `packages` to stderr, and only once even if a library configures logging too."""
    for logger in map(logging.getLogger, packages):
        logger.handlers = [_Lines()]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def print_lines(text: str, file: IO[str]) -> None:
    """Print the lines of a text whose line ends are trusted, such as a traceback."""
    print(lines(masked(text.removesuffix("\n"))), file=file, flush=True)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print_lines("".join(traceback.format_exception(kind, error, trace)), sys.stderr)


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print_lines(warnings.formatwarning(one_line(str(message)), category, filename, lineno, line), file or sys.stderr)


class _Lines(logging.Handler):
    """Prints a record as one line, above any progress line on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "note" if record.levelno == logging.INFO else record.levelname.lower()
        say(f"{kind}: {record.getMessage()}")


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return one_line(masked(record.getMessage())) + lines(masked(trace))
