"""One file of a repository on the Hugging Face Hub, at a revision that is resolved to a commit."""

import functools
from pathlib import Path
from typing import NamedTuple

from bevt_core.hub.client import ask, hub_api
from schemas.errors import UserError


class HubFile(NamedTuple):
    """A downloaded file in the Hub's cache, and the commit of the repository that it belongs to."""

    path: Path
    commit: str


def hub_file(repo: str, file: str, revision: str) -> HubFile:
    """Download `file` of `repo`, or find it in the Hub's cache; an interrupted download resumes.

    Raises UserError, with one line, if the repository, the revision or the file does not exist, or the Hub cannot be
    reached; StorageError for a full disk.
    """
    download = functools.partial(hub_api().hf_hub_download, repo, file, revision=revision)
    try:
        path = Path(ask(f"{repo}/{file} at revision {revision!r}", download, attempts=2))  # it repeats most itself
    except UserError as error:
        raise UserError(f"{error}; or download the file elsewhere and run `bevt tokenizer convert`") from error
    return HubFile(path, path.parents[len(Path(file).parts) - 1].name)
