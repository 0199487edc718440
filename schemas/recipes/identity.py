"""The identity of a run: the recipe keys that determine its numbers, which are all except free ones.

The fields of `Execution` and all fields annotated with `Free` are free.
"""

import typing
from typing import Annotated, Any, Final, TypeVar

from pydantic.fields import FieldInfo

from schemas.base import Record
from schemas.recipes.training import Execution

T = TypeVar("T")


class FreeMark:
    """Marks a field, in its metadata, that may differ between a checkpoint and the run that resumes it."""


FREE: Final = FreeMark()
Free = Annotated[T, FREE]  # names, paths whose content is checked by digest, and monitoring


def identity_fields(record: Record, prefix: str = "") -> dict[str, Any]:
    """Return the fields of a recipe that are not free: dotted key -> JSON value."""
    found: dict[str, Any] = {}
    plain = record.model_dump(mode="json")
    executed = Execution.model_fields if isinstance(record, Execution) else {}
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if name in executed or name not in plain or _is_free(field, value):  # not in plain: an unwritten default
            continue
        for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
            path = f"{prefix}{name}.{key}".removesuffix(".")
            found |= identity_fields(inner, f"{path}.") if isinstance(inner, Record) else {path: _of(plain[name], key)}
    return found


def _of(plain: Any, key: str) -> Any:
    return plain[key] if isinstance(plain, dict) else plain


def _is_free(field: FieldInfo, value: Any) -> bool:
    """Whether a field is free: marked itself, or through a marked member of its union if `value` is not a Record."""
    if FREE in field.metadata:
        return True
    marked = [FREE in getattr(option, "__metadata__", ()) for option in typing.get_args(field.annotation)]
    return any(marked) and not isinstance(value, Record)
