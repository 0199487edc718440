"""Pydantic's validation errors in one line: the key, the value, and the numbers that are allowed."""

import itertools
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.text.plain import SHOWN_CHARACTERS, shown

MAX_PROBLEMS = 3  # shown in a message
NUMERIC = ("greater_than", "less_than", "finite", "int_", "float_", "multiple_of")  # prefixes of pydantic's error types
WORDS = (  # pydantic's messages -> ours
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to (\S+)", r"expected \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"expected \1 or less"),
    (r"Input should be greater than (\S+)", r"expected more than \1"),
    (r"Input should be less than (\S+)", r"expected less than \1"),
    (r"Input should be (?:a|an) valid dictionary\b", "expected a mapping"),
    (r"Input should be (?:a|an) valid string\b", "expected text"),
    (r"Input should be (?:a|an) valid (\w+)", r"expected a valid \1"),
    (r"Input should be ", "expected "),
    (r"Field required", "missing"),
    (r"expected a valid tuple\b", "expected a list"),
    (r"expected a mapping or instance of \w+", "expected a mapping"),
    (r"(?:Tuple|List) should have at least 1 item after validation, not 0", "expected at least one"),
    (r"String should match pattern '\^\\w\[\\w\.-\]\*\$'", "expected a name of letters, digits, _, . and -"),
    (r"Extra inputs are not permitted", "unknown key"),
)
LIMITS: dict[type, str] = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first problems of data for `model`: for each its key, what was expected, and what was given."""
    found = error.errors(include_url=False, include_context=False)
    lines = [_line(problem, model) for problem in found[:MAX_PROBLEMS]]
    more = [f"and {len(found) - MAX_PROBLEMS} more problems"] if len(found) > MAX_PROBLEMS else []
    return "; ".join(lines + more)


def _line(problem: Any, model: type[BaseModel]) -> str:
    key, annotation, metadata = _find(model, problem["loc"])
    message = plain_words(problem["msg"])
    if problem["type"].startswith(NUMERIC):
        message = f"expected {expected_number(annotation, metadata)}"
    given = "" if problem["type"] == "missing" else f" (given {shown(problem['input'])})"
    return f"{key}: {message}{given}" if key else message


def plain_words(message: str) -> str:
    """Return a message that may be pydantic's in our words: "expected 1 or more" for "Input should be ..."."""
    for theirs, ours in WORDS:
        message = re.sub(theirs, ours, message)
    return message


def numbers_of(field: FieldInfo) -> str:
    """Describe the numbers allowed in a field, or in an element of its tuple; empty if it allows none, or booleans."""
    annotation, metadata = _plain(field.annotation, list(field.metadata))
    if typing.get_origin(annotation) is tuple:
        annotation, metadata = _plain(typing.get_args(annotation)[0], [])
    options = _options(annotation)
    return expected_number(annotation, metadata) if {int, float} & set(options) and bool not in options else ""


def expected_number(annotation: Any, metadata: Sequence[Any]) -> str:
    """Describe the numbers allowed in a field, such as "a whole number from 1 to 4096"."""
    whole = int in _options(annotation) and float not in _options(annotation)
    limits = {
        kind: getattr(entry, kind.__name__.lower())
        for entry in _flat(metadata)
        for kind in LIMITS
        if isinstance(entry, kind)
    }
    texts = {kind: f"{limit}" if whole else f"{limit:g}" for kind, limit in limits.items()}
    if limits.keys() == {Ge, Le}:
        words = f" from {texts[Ge]} to {texts[Le]}"
    else:
        words = " and".join(f" {LIMITS[kind]} {text}" for kind, text in texts.items())
    steps = [entry.multiple_of for entry in _flat(metadata) if isinstance(entry, MultipleOf)]
    what = "a whole number" if whole else "a finite number"
    return (f"a multiple of {steps[0]}" if steps else what) + words


def _find(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, Any, list[Any]]:
    """The dotted key of a pydantic location, without tags of unions, and its annotation and metadata."""
    keys: list[str] = []
    annotation: Any = model
    metadata: list[Any] = []
    for part in location:
        annotation, metadata = _plain(annotation, metadata)
        fields = [kind.model_fields for kind in _models(annotation)]
        field = next((known[part] for known in fields if part in known), None)
        if field is not None:
            keys.append(str(part)[:SHOWN_CHARACTERS])
            annotation, metadata = field.annotation, list(field.metadata)
            continue
        inner = _element(annotation, part)
        if inner is not None:
            keys.append(str(part)[:SHOWN_CHARACTERS])
            annotation, metadata = inner, []
        elif not fields and isinstance(part, str):
            continue  # the tag of a union
        elif tagged := [kind for kind in _models(annotation) if part in (kind.__name__, _tag(kind))]:
            annotation, metadata = tagged[0], []
        else:
            keys.append(str(part)[:SHOWN_CHARACTERS])
    annotation, metadata = _plain(annotation, metadata)
    return ".".join(keys), annotation, metadata


def _plain(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Strip `Annotated`, whose metadata are appended, and reduce `X | None` to X."""
    while True:
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, metadata = arguments[0], [*metadata, *arguments[1:]]
        elif type(None) in arguments and len(arguments) == 2 and typing.get_origin(annotation) in UNIONS:
            annotation = next(argument for argument in arguments if argument is not type(None))
        else:
            return annotation, metadata


UNIONS = (typing.Union, types.UnionType)


def _options(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    return list(typing.get_args(annotation)) if typing.get_origin(annotation) in UNIONS else [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [option for option in _options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]


def _element(annotation: Any, part: int | str) -> Any:
    """The annotation of a tuple's or dict's element `part`; None for other annotations."""
    for option in _options(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict:
            return arguments[1]
        if origin is tuple and isinstance(part, int):
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(part, len(arguments) - 1)]
    return None


def _tag(kind: type[BaseModel]) -> str | None:
    field = kind.model_fields.get("kind")
    return next(iter(typing.get_args(field.annotation)), None) if field else None


def _flat(metadata: Sequence[Any]) -> list[Any]:
    """The entries of metadata, including those inside a Field."""
    inner = (entry.metadata if isinstance(entry, FieldInfo) else [entry] for entry in metadata)
    return list(itertools.chain.from_iterable(inner))
