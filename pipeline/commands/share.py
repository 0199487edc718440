"""`bevt push` and `bevt pull`. Heavy imports are inside them."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson, Branch, Private
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from schemas.errors import UserError


def push(
    directory: Annotated[str, typer.Argument(help="A dataset on a local disk, its frames, or its tokens/NAME.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository, made if missing.")],
    private: Private = False,
    revision: Branch = None,
    message: Annotated[str, typer.Option(help="Message of the commits.")] = "Add a dataset made by bevt",
    json_: AsJson = False,
) -> None:
    """Push a dataset, or only its tokens, to the Hugging Face Hub.

    Run the same command again to continue: files that the repository has are skipped. It looks finished only once it
    has all files.

    \b
    Examples:
      bevt push datasets/mine my-lab/mine --private
      bevt push datasets/k400/tokens/dalle-v8 my-lab/k400-tokens
    """
    from pipeline.share.push import push as run
    from schemas.text.hub_name import repository_name

    to = repository_name(repository, revision)
    emit(run(_local(directory), to, visibility="private" if private else "as-is", message=message), json_)


def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME[@REV]", help="Dataset repository that was pushed.")],
    out: Annotated[str, typer.Argument(help="Local folder for frames/ and tokens/; may have the frames already.")],
    json_: AsJson = False,
) -> None:
    """Download a dataset from the Hugging Face Hub, and check every digest.

    Run the same command again to continue: parts whose files have the right sizes are kept (`bevt verify` reads them).

    \b
    Examples:
      bevt pull my-lab/mine datasets/mine
      bevt pull my-lab/k400-tokens@v1 datasets/k400
    """
    from pipeline.share.pull import pull as run
    from schemas.text.hub_name import repository_name

    emit(run(repository_name(repository), _local(out)), json_)


def _local(path: str) -> Path:
    found = as_path(path)
    if not isinstance(found, Path):
        raise UserError(f"{path}: not on a local disk; copy the dataset to or from the object store with its own tool")
    return found
