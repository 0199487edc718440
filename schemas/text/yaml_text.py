"""Untrusted YAML: plain values of bounded size, also after aliases are expanded."""

from pathlib import Path
from typing import Any

import yaml

from schemas.errors import UserError
from schemas.text.plain import shown, text_of
from schemas.text.regular_file import read_regular

MAX_BYTES = 100_000  # the largest shipped recipe has 2,895
MAX_VALUES = 20_000  # with all aliases expanded
MAX_DEPTH = 30
Loader: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml is eight times as fast; neither creates Python objects


def read_yaml(data: bytes, where: object) -> Any:
    """The content of a YAML file. Raises UserError, with the line if known, for invalid YAML and for non-text keys."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{where}: more than {MAX_BYTES} bytes, expected a recipe; the largest shipped one has 3,000")
    value = _loaded(text_of(data, where), where)
    _check_names(value, where)
    return value


def read_yaml_file(path: Path) -> Any:
    """`read_yaml` of a regular file of at most MAX_BYTES. Raises UserError and OSError."""
    return read_yaml(read_regular(path, MAX_BYTES), path)


def yaml_value(text: str, where: str) -> Any:
    """A value from the command line. Unlike in YAML 1.1, `3e-4` without quotes is a number."""
    value = _loaded(text, where)
    if isinstance(value, str) and not text.lstrip().startswith(('"', "'")):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if abs(number) < float("inf") else value
    return value


def _loaded(text: str, where: object) -> Any:
    """Raises UserError."""
    try:
        _check_sizes(text, where)
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{where}{line}: not YAML: {error.problem or error.context}") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # characters, dates, numbers, nesting, and tags that do not fit their value, as in `!!bool x`
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())[:200]}") from None


def _check_sizes(text: str, where: object) -> None:
    """Raise UserError if there are more values, or deeper ones, than in any recipe. Aliases count as expanded."""
    known: dict[str | None, tuple[int, int]] = {}  # anchor -> values and depth below it
    stack: list[list[Any]] = [[None, 0, 0]]  # anchor, values and depth of each open collection
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append([event.anchor, 1, 0])
            values, depth = 0, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, depth = stack.pop()
            depth += 1
            known[anchor] = (values, depth)
        elif isinstance(event, yaml.ScalarEvent):
            values, depth = 1, 0
            known[event.anchor] = (values, depth)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise UserError(f"{where}: the alias {shown(event.anchor)} has no complete anchor before it")
            values, depth = known[event.anchor]
        else:
            continue
        stack[-1][1] += values
        stack[-1][2] = max(stack[-1][2], depth)
        if sum(open_[1] for open_ in stack) > MAX_VALUES:
            raise UserError(f"{where}: more than {MAX_VALUES} values with its aliases expanded, expected a recipe")
        if len(stack) + depth > MAX_DEPTH:
            raise UserError(f"{where}: nests deeper than {MAX_DEPTH} levels, expected a recipe")


def _check_names(value: Any, where: object) -> None:
    """Raise UserError for a key, at any depth, that is not text, such as a number or a date."""
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise UserError(f"{where}: the key {shown(key)} is not text; expected the name of a recipe key")
        _check_names(item, where)
