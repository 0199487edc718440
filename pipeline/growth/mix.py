"""Datasets that mix several data sets, as a YAML file names them (`bevt tokenize --dataset mix.yaml`).

    sources:
      - {prefix: k400, dataset: k400, root: /data/k400}
      - {prefix: ssv2, dataset: ssv2, root: /data/ssv2, split: train, weight: 0.5}
      - {prefix: own, dataset: list, root: /data/own, list: own.txt, weight: 2}

The first data set makes the store, each of the others extends it. So every part has samples of one data set, and
training gives them their weight.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Unpack

from pydantic import Field, ValidationError, field_validator

from bevt_core.console.terminal import warn
from bevt_core.dataset.extensions import read_extended_plans
from bevt_core.dataset.source_list import read_plan
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import writes
from pipeline.growth.extend import extend
from pipeline.job.plan import remove_output
from pipeline.job.run import RunOptions, tokenize
from pipeline.sources import check_dataset, no_folder
from schemas.base import PlainName, Record
from schemas.errors import UserError
from schemas.frames import Plan
from schemas.ranges import Weight
from schemas.recipes import TokenizeRecipe
from schemas.text.validation import describe
from schemas.text.yaml_text import read_yaml_file

SETTINGS = ("dataset", "split", "weight")  # of a data set, which its plan has too


class MixedRoot(Record):
    """One of the data sets, and where its files are."""

    prefix: PlainName
    dataset: str
    root: str
    split: str = "train"
    list: str | None = None
    weight: Weight = 1.0


class Mix(Record):
    """The content of the file."""

    sources: Annotated[tuple[MixedRoot, ...], Field(min_length=1, max_length=1000)]

    @field_validator("sources")
    @classmethod
    def _check_prefixes(cls, sources: tuple[MixedRoot, ...]) -> tuple[MixedRoot, ...]:
        prefixes = [source.prefix for source in sources]
        twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
        if twice:
            raise ValueError(f"the prefix {twice[0]!r} occurs twice")
        return sources


def is_mix(dataset: str) -> bool:
    """Whether the value of `--dataset` is the path of such a file, not the name of a data set."""
    return dataset.endswith((".yaml", ".yml"))


def read_mix(path: Path) -> Mix:
    """Read the file. Raises UserError for another content and for unknown data sets."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        mix = Mix.model_validate(read_yaml_file(path))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Mix)}") from None
    for source in mix.sources:
        check_dataset(source.dataset)
    return mix


@writes(lambda recipe, *_, **__: as_path(recipe.out).absolute(), "bevt tokenize")
def tokenize_mix(
    recipe: TokenizeRecipe,
    mix: Mix,
    *,
    allow_outside: bool = False,
    frames_only: bool = False,
    overwrite: bool = False,
    **run_options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Make the frame store and the token set of `recipe` from all data sets of `mix`; finished parts are kept.

    Of `recipe`, the keys that `mix` sets are not used. Sources that a data set has got since are added. `overwrite`
    deletes the output of another mix. Returns the summary of the first job as `first`, and those of the extensions as
    `more`, by prefix. Raises UserError for a root or list that does not exist, for a data set that was added with other
    settings, and as `tokenize` and `extend` do.
    """
    out = as_path(recipe.out).absolute()
    plans = _stored_plans(out)
    changes, others = _changes(mix, plans), _unnamed(mix, plans)
    if overwrite and (changes or others):
        remove_output(out / "frames")
        plans = []
    elif changes:
        raise UserError(f"{out}: {changes[0]}; give another `out`, or give `overwrite` to delete that output")
    elif others:
        warn(f"{out}: also has the data set {others[0]!r}, which the mix does not name; it stays")
    _check_inputs(mix, {plan.prefix for plan in plans})
    options: dict[str, Any] = {"allow_outside": allow_outside, **run_options}
    first, *further = mix.sources
    facts = first.model_dump(include={"prefix", "dataset", "root", "split", "weight"})
    summary = tokenize(
        recipe.model_copy(update=facts),
        list_file=first.list,
        frames_only=frames_only,
        overwrite=overwrite,
        **options,
    )
    if len(plans) > 1 and as_path(first.root).is_dir():
        further.append(first)
    unfinished = plans[-1].prefix if plans else None  # if any: its root has its files
    roots = {source.prefix: as_path(source.root) for source in mix.sources}
    ordered = sorted(further, key=lambda source: source.prefix != unfinished)
    more = {source.prefix: _extend(out, source, roots, options) for source in ordered}
    return {"first": summary, "more": {source.prefix: more[source.prefix] for source in further}}


def _extend(out: AnyPath, source: MixedRoot, roots: dict[str, AnyPath], options: dict[str, Any]) -> dict[str, Any]:
    facts = source.model_dump(include={"prefix", "dataset", "split", "weight"})
    return extend(out, roots[source.prefix], list_file=source.list, roots=roots, **facts, **options)


def _stored_plans(out: AnyPath) -> list[Plan]:
    """The plans of the dataset `out`, none if it has none."""
    plan = read_plan(out / "frames")
    return [] if plan is None else [plan, *read_extended_plans(out / "frames", plan)]


def _changes(mix: Mix, plans: list[Plan]) -> list[str]:
    """The settings of `mix` with which none of its data set's `plans` was made."""
    changes = []
    for source in mix.sources:
        stored = [plan for plan in plans if plan.prefix == source.prefix]
        differ = [[key for key in SETTINGS if getattr(plan, key) != getattr(source, key)] for plan in stored]
        if stored and all(differ):
            keys = [f"{key} {getattr(stored[-1], key)}, not {getattr(source, key)}" for key in differ[-1]]
            changes.append(f"its data set {source.prefix!r} has {' and '.join(keys)}")
    return changes


def _unnamed(mix: Mix, plans: list[Plan]) -> list[str]:
    """The prefixes of data sets in the store that `mix` does not name."""
    named = {source.prefix for source in mix.sources}
    return [plan.prefix for plan in plans if plan.prefix is not None and plan.prefix not in named]


def _check_inputs(mix: Mix, stored: Collection[str | None]) -> None:
    """Raise UserError if a root or list does not exist, before hours are spent on the data sets before it.

    The first data set's is not needed once it is `stored`.
    """
    for number, source in enumerate(mix.sources):
        root = as_path(source.root)
        if not root.is_dir() and not (number == 0 and source.prefix in stored):
            raise UserError(f"the root {root} of {source.prefix!r}: {no_folder(root)}")
        if source.list is not None and not as_path(source.list).is_file():
            raise UserError(f"the list {source.list} of {source.prefix!r}: no such file")
