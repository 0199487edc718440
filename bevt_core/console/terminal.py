"""What a command prints. Only this module and `bevt_core.console.progress` print, and they print plain text.

Names and error messages may have terminal escapes, line ends and credentials in them; see `bevt_core.console.inert` and
`schemas.text.credentials`.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, TextIO

from bevt_core.console.inert import lines, one_line
from bevt_core.console.progress import say
from bevt_core.console.readable import summary_lines
from schemas.text.credentials import masked
from schemas.text.json_text import json_text


def show(text: str) -> None:
    """Print to stdout. Line ends in `text` are the caller's own: names that come into it are `one_line` before."""
    print(lines(masked(text)), flush=True)


def warn(message: str) -> None:
    """Print a warning to stderr."""
    say(f"warning: {message}")


def note(message: str) -> None:
    """Print what was decided by itself to stderr; under torchrun rank 0 does."""
    if os.environ.get("RANK", "0") == "0":
        say(f"note: {message}")


def emit(summary: dict[str, Any], as_json: bool) -> None:
    """Print the result: one JSON object as the last line, or a table of rounded values with their units.

    Under torchrun rank 0 prints.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json_text(_masked_values(summary)), flush=True)  # ASCII: controls are \u001b
    else:
        show("\n".join(summary_lines(summary)))


def _masked_values(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _masked_values(item) for key, item in value.items()}
    return [_masked_values(item) for item in value] if isinstance(value, list | tuple) else value


def plain_messages() -> None:
    """Let tracebacks, Python's warnings and libraries' log lines of this process be plain text as well."""
    sys.excepthook = _print_traceback
    warnings.showwarning = _print_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


def print_lines(text: str, file: IO[str]) -> None:
    """Print the lines of a text whose line ends are ours, as a traceback's."""
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


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return one_line(masked(record.getMessage())) + lines(masked(trace))
