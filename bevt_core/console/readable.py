"""Human-readable results: rounded numbers with units, in aligned tables. Programs should read the JSON instead."""

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from bevt_core.console.inert import one_line
from schemas.text.plain import short

MAX_ROWS = 10  # shown of a list or mapping that is more than twice as long
LINE_CHARS = 100  # longest list on one line

SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def clock(seconds: float) -> str:
    """Return a time as m:ss, from an hour on as h:mm:ss."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss, below a minute in seconds or milliseconds."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"


def hours(number: float) -> str:
    """Return a time in hours, below one hour as `duration`."""
    return f"{number:,.1f} h" if number >= 1 else duration(3600 * number)


def size(num_bytes: float) -> str:
    """Return bytes in GB, or below 1 GB in MB, kB or B."""
    for unit_bytes, unit in SIZES:
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:.3g} {unit}" if num_bytes < 1e12 else f"{num_bytes / 1e9:,.0f} GB"
    return f"{num_bytes:.4g} B"


def count(number: float, noun: str) -> str:
    """Return `1 process`, `2 processes`, `1,200 ranks`, `0.5 epochs`."""
    hissing = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch")
    shown_number = f"{number:g}" if isinstance(number, float) else f"{number:,}"
    return f"{shown_number} {noun if number == 1 else noun + ('es' if hissing else 's')}"


def percent(share: float) -> str:
    return f"{share:z.1%}"  # z: a rounding error below zero is not -0.0%


def _operations(number: float) -> str:
    for unit, name in COUNTS:
        if number >= unit:
            return f"{number / unit:.4g} {name}" if number < 1e15 else f"{number:.3g}"
    return _plain(number)


def _plain(number: float) -> str:
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def _loss(number: float) -> str:
    """At least three digits: a tokenizer's pixel loss falls from 0.02 to 0.01."""
    return f"{number:.3f}" if abs(number) >= 0.1 or number == 0 else f"{number:#.4g}"


# end of a key -> format of its numbers, with their unit; the first match is used
UNITS: tuple[tuple[str, Callable[[float], str]], ...] = (
    (r"per_s(econd)?", _plain),
    (r"bytes(_per_\w+)?", size),
    (r"gb", lambda number: size(1e9 * number)),
    (r"seconds|s", duration),
    (r"ms", lambda number: f"{number:.1f} ms"),
    (r"hours", hours),
    (r"pid", str),
    (r"px", lambda number: f"{number:g} px"),
    (r"db", lambda number: f"{number:.2f} dB"),
    (r"top1|top5|mean_class|acc|accuracy|share|chance|mfu|hfu|top1_deviation|drop|calibration_error", percent),
    (r"loss", _loss),
    (r"(multiply_adds|flops|params|parameters)(_\w+)?", _operations),
)
_UNITS = tuple((re.compile(rf"(^|.*_)({pattern})$"), show) for pattern, show in UNITS)
# units in keys whose values are shown in a unit that depends on the value, and what they measure
TITLES = {"film": "video"}  # keys of JSON results that the terminal words differently
MEASURED = {"seconds": "duration", "s": "duration", "hours": "time", "bytes": "size", "gb": "size"}
_MEASURED = re.compile(rf"(?P<name>[a-z0-9_]*?)_?(?<![a-z0-9])(?P<unit>{'|'.join(MEASURED)})(?P<per>_per_\w+)?")


def shown(key: str, value: Any, outer: str = "") -> str:
    """Return a scalar as readable text. The end of `key` decides its unit, else that of the enclosing key `outer`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return one_line(str(short(value)))
    if not math.isfinite(value):
        return str(value)
    for name in (key, outer):
        for pattern, show in _UNITS:
            if pattern.match(name):
                return show(value)
    return f"{value:,}" if isinstance(value, int) else _plain(value)


def labels(keys: Iterable[str]) -> dict[str, str]:
    """Return the words to show for the keys of one mapping: without a unit that differs from the one shown.

    `frames_gb` becomes `frames`, or `frames_size` beside a key `frames`; `gpu_hours` becomes `gpu_time`.
    """
    taken = set(keys)
    found: dict[str, str] = {}
    for key in keys:
        label = TITLES.get(key) or _without_unit(key, taken) or key
        taken.add(label)
        found[key] = one_line(label)
    return found


def _without_unit(key: str, taken: Container[str]) -> str | None:
    match = _MEASURED.fullmatch(key)
    if match is None or key.endswith("per_s"):
        return None
    name, measured, per = match["name"], MEASURED[match["unit"]], match["per"] or ""
    options = [name] if name and not per and measured != "time" else []
    options.append(f"{name}_{measured}{per}" if name else f"{measured}{per}")
    return next((option for option in options if option not in taken), None)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), indent: str = "") -> list[str]:
    """Return the lines of a table of texts: columns aligned to the left, columns of numbers to the right."""
    cells = [*([list(header)] if header else []), *map(list, rows)]
    if not cells:
        return []
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    numbers = [all(_is_number(row[at]) for row in rows) for at in range(len(cells[0]))]
    lines = []
    for row in cells:
        aligned = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ]
        lines.append(f"{indent}{'  '.join(aligned)}".rstrip())
    return lines


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or re.match(r"-?[\d,.:]+( \D+|%)?$", cell) is not None


def summary_lines(summary: Mapping[str, Any], indent: str = "", outer: str = "") -> list[str]:
    """Return the lines of a summary: keys and values in two columns, nested values indented below their key.

    Keys that a reader may not know are explained. `outer` is the key of this summary in an enclosing one. Mappings and
    lists whose items are mappings with equal keys and plain values are shown as tables. Left out are None, mappings of
    nothing else, and empty metrics.
    """
    from bevt_core.console.explained import EXPLAINED  # not at the top, since `bevt --help` imports this module

    known = ((str(key), value) for key, value in summary.items() if not _is_unknown(value))  # 75: 0.9 of a JPEG quality
    summary = {key: value for key, value in known if value or key != "metrics"}
    named = labels(summary)
    flat = {key: _one_line(key, value, outer) for key, value in summary.items()}
    width = max((len(named[key]) for key, line in flat.items() if line is not None), default=0)
    lines = []
    for key, value in summary.items():
        line = flat[key]
        words = f" ({EXPLAINED[key]})" if key in EXPLAINED else ""
        if line is not None:
            lines.append(f"{indent}{named[key]:<{width}}  {line}{words}".rstrip())
            continue
        lines.append(f"{indent}{named[key]}{words}")
        lines += _nested(key, value, indent + "  ")
    return lines


def _is_unknown(value: Any) -> bool:
    """Whether a value is None, or a mapping of None alone. An empty mapping, as of failed files, is a result."""
    return value is None or (
        isinstance(value, Mapping) and bool(value) and all(_is_unknown(item) for item in value.values())
    )


def _one_line(key: str, value: Any, outer: str = "") -> str | None:
    """Return a value as text if it fits on its key's line, else None."""
    if isinstance(value, Mapping):
        return None if value else "none"
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            return None
        joined = ", ".join(shown(key, item) for item in value)
        return None if len(joined) > LINE_CHARS else joined or "none"
    return shown(key, value, outer)


def _nested(key: str, value: Any, indent: str) -> list[str]:
    items = list(value.items()) if isinstance(value, Mapping) else [("", item) for item in value]
    columns = _columns([item for _, item in items], least=2 if isinstance(value, Mapping) else 1)
    if columns:
        rows = [[one_line(name), *(shown(column, item[column], key) for column in columns)] for name, item in items]
        header = list(labels(columns).values())
        if not isinstance(value, Mapping):
            return _cut(table([row[1:] for row in rows], header, indent), indent, header=1)
        return _cut(table(rows, ["", *header], indent), indent, header=1)
    if isinstance(value, Mapping):
        return _cut(summary_lines(value, indent, key), indent)
    texts = [_inline(item) if isinstance(item, Mapping) else shown(key, item) for item in value]
    return _cut([f"{indent}{text}" for text in texts], indent)


def _inline(item: Mapping[str, Any]) -> str:
    named = labels(item)
    return ", ".join(f"{named[key]} {_one_line(key, value) or '...'}" for key, value in item.items())


def _columns(items: Sequence[Any], least: int) -> list[str]:
    """Return the keys of `least` or more mappings if all have the same keys and plain values; else an empty list."""
    if len(items) < least or not all(isinstance(item, Mapping) and item for item in items):
        return []
    keys = list(items[0])
    plain = all(not isinstance(value, Mapping | list | tuple) for item in items for value in item.values())
    return keys if plain and all(list(item) == keys for item in items) else []


def _cut(lines: list[str], indent: str, header: int = 0) -> list[str]:
    if len(lines) <= 2 * MAX_ROWS + header:
        return lines
    return [*lines[: MAX_ROWS + header], f"{indent}and {len(lines) - MAX_ROWS - header} more (all with --json)"]
