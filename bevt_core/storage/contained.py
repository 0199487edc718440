"""Keeps untrusted relative paths below the folder that they are relative to.

A name from a list of sources, a plan, a commit or a run's record is joined to its folder by `contained` or
`readable_source`, never by `/` alone. Below the root of the raw data, links may not lead out either, unless the user
gives --allow-outside: the dataset chooses the names, and their targets are decoded into frames that others may see.

The files of a finished dataset may be links: Hugging Face's cache and git-annex keep every file as a link into a store
of blobs. Such files are only read, and checked against the commits and the layout; a link is replaced, and its target
is never overwritten. `bevt repair`, which also removes files, refuses a dataset whose folders are links that lead out.
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
    """`root / name`. Raises UserError for a name that leads out of `root`, by itself or by links."""
    return storage_of(root).contained(name)


def readable_source(root: AnyPath, source: str, allow_outside: bool) -> AnyPath:
    """The path of a source; it is `contained`, and so are the links in a folder of frames.

    With `allow_outside` it may lead anywhere. Raises UserError.
    """
    if allow_outside and "\0" not in source:
        return root / source
    path = contained(root, source)
    for link in storage_of(path).links():
        contained(root, f"{source}/{link}")
    return path


def check_sources(sources: Iterable[str], where: object) -> None:
    """Raise UserError, naming the file `where`, for the first source that would lead out of any root."""
    for source in sources:
        why = leads_out(source)
        if why is not None:
            raise UserError(f"{where}: the source {source!r} leads out of the root: {why}; {ALLOW}")
