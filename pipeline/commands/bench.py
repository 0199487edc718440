"""The commands that measure a tokenization job and a finished dataset. Heavy imports are inside the functions."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson, Overrides, RecipeName
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from pipeline.commands.data import Dataset, Directory, Root, TokenizerName, tokenize_recipe


def bench_tokenize(
    dataset: Dataset,
    work: Annotated[Path, typer.Option(help="Empty folder for the outputs.")],
    root: Root = None,
    tokenizer: TokenizerName = None,
    recipe: RecipeName = None,
    small: Annotated[int, typer.Option(min=1, help="Sources of the smaller job.")] = 16,
    large: Annotated[int, typer.Option(min=1, help="Sources of the larger job.")] = 160,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs for Ray.")] = 2,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Measure the CPU time of a tokenization job against a bare loop.

    CPU times are differences between jobs of two sizes. Also reports the ratio of their peak memory, and the
    tokenizers' busy share.

    The busy share and the memory ratio are meaningful only if the smaller job has more parts than are in flight, as
    with --small 48 --large 480 --set sources_per_part=8.

    \b
    Example:
      bevt bench tokenize --dataset folder --root videos --work /tmp/bench --json
    """
    from pipeline.bench.job import bench_tokenize as run

    emit(run(tokenize_recipe(dataset, root, None, None, tokenizer, recipe, set_), work, (small, large), cpus), json_)


def bench_store(
    directory: Directory,
    json_: AsJson = False,
) -> None:
    """Measure the bytes on disk of a stored frame and of its tokens.

    The sizes are read from the commits of a finished dataset.

    \b
    Example:
      bevt bench store datasets/k400 --json
    """
    from pipeline.bench.store import bench_store as run

    emit(run(as_path(directory)), json_)
