"""Every number that a recipe, a run or a dataset's file may hold has a finite, sensible range."""

import importlib
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from bevt_core.tokenizers.families import BUILT_IN, named_object
from schemas.base import Record
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from schemas.text.validation import describe
from trainer.commands.pretrain import STAGE_RECIPES
from trainer.recipes import TRAINER_RECIPES

for module in ("evaluation", "frames", "models", "recipes", "runs", "tokens", "views"):
    importlib.import_module(f"schemas.{module}")
for entry in BUILT_IN.values():
    named_object(entry)
for module in ("bevt_core.tokenizers.description", "trainer.engine.checkpoint", "pipeline.synthetic.camera_motion"):
    importlib.import_module(module)

BAD: tuple[Any, ...] = (math.inf, -math.inf, math.nan, -1, 10**18, 10**400, 1e308, "many", [[1]], {"a": 1})
MEASURED = {"CheckpointRecord.line"}  # losses and speeds, which may be any finite number


def records(kind: type[Record] = Record) -> Iterator[type[Record]]:
    for below in kind.__subclasses__():
        yield below
        yield from records(below)


def wrapped(annotation: Any, bad: Any) -> Any:
    """A value for the annotation in which each number is `bad`; None where it takes no number, or text as well."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return bad
    if origin is typing.Annotated:
        return wrapped(arguments[0], bad)
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        items = [wrapped(argument, bad) for argument in arguments if argument is not Ellipsis]
        return items if bad in items or any(isinstance(item, list) for item in items) else None
    if origin is dict:
        inner = wrapped(arguments[1], bad)
        return None if inner is None else {"x": inner}
    if arguments and str not in arguments and bool not in arguments:  # a union
        found = [wrapped(argument, bad) for argument in arguments if argument is not type(None)]
        return next((value for value in found if value is not None), None)
    return None


def numeric_fields() -> list[tuple[type[Record], str, FieldInfo]]:
    return [
        (record, name, field)
        for record in sorted(set(records()), key=lambda record: record.__qualname__)
        if record.__module__.split(".")[0] != "tests"
        for name, field in record.model_fields.items()
        if f"{record.__name__}.{name}" not in MEASURED
        and wrapped(field.annotation, -1) is not None
        and typing.get_origin(field.annotation) is not typing.Literal
    ]


def test_the_walk_finds_numbers() -> None:
    found = {f"{record.__name__}.{name}" for record, name, _ in numeric_fields()}
    assert len(found) > 120
    assert {"OptimConfig.lr", "OptimConfig.betas", "LoopConfig.max_steps", "FrameStoreManifest.rejected"} <= found


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:12])
def test_no_field_takes_what_makes_no_sense(bad: Any) -> None:
    for record, name, field in numeric_fields():
        value = wrapped(field.annotation, bad)
        with pytest.raises(ValidationError) as caught:
            record.model_validate({name: value})
        errors = [problem for problem in caught.value.errors() if problem["loc"][0] == name]
        assert errors, f"{record.__name__}.{name} takes {bad!r}"


def test_the_message_names_key_value_and_range() -> None:
    for record, name, field in numeric_fields():
        with pytest.raises(ValidationError) as caught:
            record.model_validate({name: wrapped(field.annotation, 1e308)})
        first = next(problem for problem in caught.value.errors() if problem["loc"][0] == name)
        line = describe(ValidationError.from_exception_data(record.__name__, [_again(first)]), record)
        assert line.startswith(name) and "expected a " in line and "(given 1e+308)" in line, line


def _again(problem: Any) -> Any:
    return {key: problem[key] for key in ("type", "loc", "input", "ctx") if key in problem}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.max_steps=-3", r"loop.max_steps: expected a whole number from 1 to 1000000000 \(given -3\)"),
        ("optim.lr=.inf", r"optim.lr: expected a finite number above 0 and at most 100 \(given inf\)"),
        ("optim.lr=nan", r"optim.lr: expected a finite number above 0 and at most 100 \(given 'nan'\)"),
        ("loop.epochs=1e308", r"loop.epochs: expected .* at most 1e\+06 \(given 1e\+308\)"),
        ("loop.epochs=true", r"loop.epochs: expected a finite number .*\(given True\)"),
        ("optim.betas=[0.9, 1]", r"optim.betas.1: expected a finite number at least 0 and below 1 \(given 1\)"),
        ("streams.video.global_batch=1e12", r"streams.video.global_batch: expected a whole number from 1 to 1000000"),
        ("streams.video.mask.ratio=7", r"streams.video.mask.ratio: expected a finite number above 0 and below 1"),
        ("model.encoder.window=[1,0,1]", r"model.encoder.window.1: expected a whole number from 1 to 1024"),
        ("loop.num_workers=0x" + "f" * 9000, r"loop.num_workers: .*\(given a number with thousands of digits\)"),
    ],
)
def test_a_recipe_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(STAGE_RECIPES["joint"], TRAINER_RECIPES, [override])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["streams.video.global_batch=1000000"], "global_batch x clip_frames: 1000000 x 16 frames per step"),
        (["model.encoder.embed_dim=16384"], "parameters; expected at most 1e\\+11"),
    ],
)
def test_products_are_bounded_too(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(STAGE_RECIPES["joint"], TRAINER_RECIPES, overrides)


def test_a_digest_takes_no_nan() -> None:
    from schemas.base import canonical_json

    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": math.nan})
