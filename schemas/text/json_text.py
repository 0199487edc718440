"""JSON written so that every parser can read it, and parsed with bounded memory."""

import json
import math
from collections.abc import Mapping
from typing import Any

from schemas.errors import UserError
from schemas.text.plain import shown

MAX_BYTES = 48 << 20  # twice the largest official list, that of Something-Something-V2
MAX_VALUES = 2_500_000  # that list has 1.6 million; a value takes up to 200 bytes
KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON. NaN and infinity, which JSON cannot represent, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def parse_json(text: str, kind: type, where: object) -> Any:
    """The value of a JSON text, which must be a `kind`: list or dict. Raises UserError, with the line, otherwise."""
    size = len(text)
    if size > MAX_BYTES:
        raise UserError(f"{where}: {size / 1e6:.0f} MB of JSON, expected at most {MAX_BYTES / 1e6:.0f} MB")
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise UserError(f"{where}: JSON with more than {MAX_VALUES} values, expected {KINDS[kind]} with fewer")
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
    """Return `value` if it is of the JSON type `kind`; raise UserError otherwise."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: {name} is {shown(value)}, expected {KINDS[kind]}")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
