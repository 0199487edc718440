"""Datasets that mix several data sets, as a YAML file names them (`bevt tokenize --dataset mix.yaml`).

    sources:
      - {prefix: k400, dataset: k400, root: /data/k400}
      - {prefix: ssv2, dataset: ssv2, root: /data/ssv2, split: train, weight: 0.5}
      - {prefix: own, dataset: list, root: /data/own, list: own.txt, weight: 2}

The first data set makes the store, each of the others extends it. So every part has samples of one data set, and
training gives them their weight.
"""

from pathlib import Path
from typing import Annotated, Any, Unpack

from pydantic import Field, ValidationError, field_validator

from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import writes
from pipeline.growth.extend import extend
from pipeline.job.run import RunOptions, tokenize
from pipeline.sources import check_dataset
from schemas.base import PlainName, Record
from schemas.errors import UserError
from schemas.ranges import Weight
from schemas.recipes import TokenizeRecipe
from schemas.text.validation import describe
from schemas.text.yaml_text import read_yaml_file


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
    **run_options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Make the frame store and the token set of `recipe` from all data sets of `mix`; finished parts are kept.

    Of `recipe`, the keys that `mix` sets are not used. Sources that a data set has got since are added. Returns the
    summary of the first job as `first`, and those of the extensions as `more`, by prefix. Raises UserError as
    `tokenize` and `extend` do.
    """
    out, roots = as_path(recipe.out), {source.prefix: as_path(source.root) for source in mix.sources}
    first, *others = mix.sources
    facts = first.model_dump(include={"prefix", "dataset", "root", "split", "weight"})
    options: dict[str, Any] = {"allow_outside": allow_outside, **run_options}
    summary = tokenize(recipe.model_copy(update=facts), list_file=first.list, frames_only=frames_only, **options)
    more = {source.prefix: _extend(out, source, roots, options) for source in others}
    return {"first": summary, "more": more}


def _extend(out: AnyPath, source: MixedRoot, roots: dict[str, AnyPath], options: dict[str, Any]) -> dict[str, Any]:
    facts = source.model_dump(include={"prefix", "dataset", "split", "weight"})
    return extend(out.absolute(), roots[source.prefix], list_file=source.list, roots=roots, **facts, **options)
