"""Paths that somebody else wrote, held to the folder that they are relative to.

A name from a list of sources, a plan, a commit or a run's record is joined to its folder by `contained` or
`readable_source`, never by `/` alone. Under the raw files' root a link may not lead out of it either, unless the user
says --allow-outside: the names are the dataset's, and what they lead to is decoded into frames that others may see.

The files *of* a dataset may be links: Hugging Face's cache and git-annex keep every file as a link into a store of
blobs. They are only read, as what the commits and the layout say they are, and are replaced, never written through.
`bevt repair`, which also removes, refuses a dataset whose folders are links that lead out of it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import overload

from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.text.names import ALLOW, leads_out


@overload
def contained(root: Path, name: str) -> Path: ...
@overload
def contained(root: AnyPath, name: str) -> AnyPath: ...
def contained(root: AnyPath, name: str) -> AnyPath:
    """`root / name`, which is below `root`. Raises UserError for a name that leads out of it, by itself or by links."""
    return storage_of(root).contained(name)


def readable_source(root: AnyPath, source: str, allow_outside: bool) -> AnyPath:
    """Where a source is: `contained`, and so are the pictures in a folder of frames.

    With `allow_outside` it may be anywhere. Raises UserError.
    """
    if allow_outside and "\0" not in source:
        return root / source
    path = contained(root, source)
    for link in storage_of(path).links():
        contained(root, f"{source}/{link}")
    return path


def check_sources(sources: Iterable[str], where: object) -> None:
    """Raise UserError, naming the file `where`, for the first of its sources that leads out of any root."""
    for source in sources:
        why = leads_out(source)
        if why is not None:
            raise UserError(f"{where}: its source {source!r} leads out of the root: {why}; {ALLOW}")
