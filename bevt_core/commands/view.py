"""The command `bevt view`. The sites come from `cli`: the pipeline's for datasets, the trainer's for runs."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from bevt_core.console.command_line import VIEWERS, AsJson
from bevt_core.console.terminal import emit, note, show


def view(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="PATH", help="A dataset, a run, or the folder of an evaluation.")],
    clips: Annotated[
        str | None,
        typer.Option(help="Clips of an evaluation: its frame store, or the root of its files."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Name or folder of the tokenizer, if it has moved.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    json_: AsJson = False,
) -> None:
    """Look at a dataset, a run or an evaluation in the browser, on this machine only.

    Prints the address, and serves it until Ctrl-C.

    \b
    Example:
      bevt view datasets/k400
    """
    from bevt_core.storage.descriptions import dataset_around, what_is
    from bevt_core.storage.objects import as_path
    from bevt_core.viewer.server import ViewServer
    from schemas.errors import UserError

    path = as_path(directory)
    viewers: Iterator[Callable[..., Any]] = context.meta[VIEWERS]()
    sites = (make(path, clips=clips, tokenizer=tokenizer) for make in viewers)
    site = next((site for site in sites if site is not None), None)
    if site is None:
        inside = (path / "dataset.json").is_file()  # a frame store or a token set
        wanted = dataset_around(path) if inside else "a dataset, a run, or the folder of an evaluation"
        raise UserError(f"{directory}: {what_is(path)}; give {wanted}")
    with ViewServer(site, port) as server:
        if json_:
            emit({"address": server.address}, json_)
        else:
            show(server.address)
        note("Ctrl-C ends the page")
        if open_:
            import webbrowser

            webbrowser.open(server.address)
        server.serve_forever(poll_interval=0.2)
