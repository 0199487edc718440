"""JSON, written so that every parser reads it, and read so that no text takes more memory than a large list does."""

import json
import math
from collections.abc import Mapping
from typing import Any

from schemas.errors import UserError
from schemas.text.plain import shown

MAX_BYTES = 48 << 20  # the largest official list, that of Something-Something-V2, has half
MAX_VALUES = 2_500_000  # that one has 1.6 million; a value takes up to 200 bytes
KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON. NaN and infinity, for which it has no words, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def parse_json(text: str, kind: type, where: object) -> Any:
    """What a JSON text holds, which is a `kind`: list or dict. Raises UserError for all else, with the line."""
    size = len(text)
    if size > MAX_BYTES:
        raise UserError(f"{where}: {size / 1e6:.0f} MB of JSON, expected at most {MAX_BYTES / 1e6:.0f} MB")
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise UserError(f"{where}: JSON of more than {MAX_VALUES} values, expected {KINDS[kind]} of fewer")
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            raise UserError(f"{where}, line {error.lineno}: JSON that ends early; get the whole file") from None
        raise UserError(f"{where}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON that nests too deeply, expected {KINDS[kind]}") from None
    except ValueError as error:  # a number of thousands of digits, NaN
        raise UserError(f"{where}: not JSON: {shown(str(error))}") from None
    return typed(value, kind, str(where))


def typed(value: Any, kind: type, where: str, name: str = "the content") -> Any:
    """Return `value` if it is a `kind`, as JSON has them; otherwise UserError."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: {name} is {shown(value)}, expected {KINDS[kind]}")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
