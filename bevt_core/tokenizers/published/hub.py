"""One file of a repository on the Hugging Face hub, at a revision that is resolved to a commit."""

import sys
from pathlib import Path
from typing import NamedTuple

from schemas.errors import UserError


class HubFile(NamedTuple):
    """A downloaded file in the hub's cache, and the commit of the repository that it belongs to."""

    path: Path
    commit: str


def hub_file(repo: str, file: str, revision: str) -> HubFile:
    """Download `file` of `repo`, or find it in the hub's cache; an interrupted download resumes.

    Raises UserError, with one line, if the repository, the revision or the file does not exist, or the hub cannot be
    reached.
    """
    from huggingface_hub import hf_hub_download

    failures: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, *_network_errors())
    try:
        path = Path(hf_hub_download(repo, file, revision=revision))
    except failures as error:
        raise UserError(
            f"{repo}/{file} at revision {revision!r}: {_first_line(error)}; check the revision and the connection, or "
            "download the file elsewhere and run `bevt tokenizer convert`"
        ) from error
    return HubFile(path, path.parents[len(Path(file).parts) - 1].name)


def _network_errors() -> tuple[type[Exception], ...]:
    """Those of the hub client's HTTP library, which is httpx2 or, in older versions, httpx."""
    return tuple(sys.modules[name].HTTPError for name in ("httpx2", "httpx") if name in sys.modules)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
