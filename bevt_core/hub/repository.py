"""Repositories on the Hugging Face Hub: what they contain, and commits to them.

A commit names its parent, so that two writers cannot mix their files: the second one is refused.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from bevt_core.hub.client import TIMEOUT_S, HubUnreachableError, ask, hub_api
from bevt_core.hub.files import RemoteFile, equals, remote_files
from schemas.errors import UserError
from schemas.text.hub_name import HubName
from schemas.text.plain import short

Kind = Literal["model", "dataset"]
Visibility = Literal["as-is", "private"]  # private: refuse to add anything to a public repository
MAIN = "main"


class Listing(NamedTuple):
    """The files of a repository at a commit, by path."""

    commit: str
    files: dict[str, RemoteFile]


class ConflictError(UserError):
    """Another writer's commit came first."""


def list_model(name: HubName) -> Listing:
    """Return the files of a model, which are few, by a single request. Raises UserError."""
    request = functools.partial(hub_api().model_info, name.repository, revision=name.revision, files_metadata=True)
    info = ask(name, functools.partial(request, timeout=TIMEOUT_S))
    return Listing(_commit_of(name, info.sha), remote_files(info.siblings or ()))


def list_dataset(name: HubName) -> Listing:
    """Return the files of a dataset, a thousand per request. Raises UserError."""
    api = hub_api()
    info = ask(
        name,
        functools.partial(api.dataset_info, name.repository, revision=name.revision, timeout=TIMEOUT_S, expand=["sha"]),
    )
    commit = _commit_of(name, info.sha)
    tree = functools.partial(api.list_repo_tree, name.repository, recursive=True, revision=commit, repo_type="dataset")
    return Listing(commit, ask(name, lambda: remote_files(tree()), attempts=2))  # it repeats most itself


def make_repository(name: HubName, kind: Kind, visibility: Visibility) -> None:
    """Make the repository, and its branch `name.revision`, if they do not exist.

    A new repository is private if that is asked for, else as the organization's settings have it. Raises UserError if
    it exists and is public, but should be private.
    """
    api = hub_api()
    make = functools.partial(api.create_repo, name.repository, repo_type=kind, exist_ok=True)
    ask(name, functools.partial(make, private=True if visibility == "private" else None))
    if visibility == "private":
        info = ask(name, lambda: api.repo_info(name.repository, repo_type=kind, timeout=TIMEOUT_S))
        if not info.private:
            raise UserError(f"{name}: exists and is public; make it private on its page, or push to another repository")
    if name.revision not in (None, MAIN):
        assert name.revision is not None
        branch = functools.partial(api.create_branch, name.repository, branch=name.revision, exist_ok=True)
        ask(name, functools.partial(branch, repo_type=kind))


def commit(
    name: HubName,
    kind: Kind,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    parent: str,
    removed: Sequence[str] = (),
    sha256: Mapping[str, str] | None = None,
) -> str:
    """Add `files` to the repository, by path, and remove others, in one commit on `parent`; return its hash.

    `sha256` are the expected digests of some of the files. Raises UserError, and adds nothing, if one differs;
    ConflictError if `parent` is no longer the latest commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    added = [CommitOperationAdd(path, source) for path, source in files.items()]
    for operation in added:
        expected, found = (sha256 or {}).get(operation.path_in_repo), None
        if expected is not None and (found := operation.upload_info.sha256.hex()) != expected:
            raise UserError(
                f"{files[operation.path_in_repo]!s}: digest {short(found)}, but its commit has {short(expected)}; run "
                "`bevt verify`, then `bevt repair`"
            )
    operations = [*added, *(CommitOperationDelete(path, is_folder=False) for path in removed)]
    send = functools.partial(hub_api().create_commit, name.repository, operations, repo_type=kind)
    send = functools.partial(send, commit_message=message, revision=name.revision, parent_commit=parent)

    def request() -> str:
        try:
            return str(send().oid)
        except HfHubHTTPError as error:
            if error.response.status_code in (409, 412):
                raise ConflictError(
                    f"{name}: another writer has changed it meanwhile; run the same command again when it has finished"
                ) from error
            raise

    with quiet():
        return ask(name, request, attempts=1)


def push_folder(folder: Path, name: HubName, visibility: Visibility, message: str) -> HubName:
    """Push the files in `folder`, without its sub-folders, to a model's repository; return its name with the commit.

    One commit has all of them, so that no reader sees a part. Other files of the repository are left unchanged.
    """
    make_repository(name, "model", visibility)
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")}
    for attempt in (1, 2, 3):
        found = list_model(name)
        todo = {path: source for path, source in files.items() if not has_file(path, source, found)}
        if not todo:
            return name.at(found.commit)
        try:
            return name.at(commit(name, "model", todo, message, parent=found.commit))
        except HubUnreachableError:
            if attempt == 3:
                raise
    raise AssertionError


def has_file(path: str, source: Path, listing: Listing) -> bool:
    """Return whether the repository has the file `path` with the content of `source`."""
    return path in listing.files and equals(source, listing.files[path])


def download(name: HubName, path: str, folder: Path) -> Path:
    """Download a file of a dataset at a pinned revision to `folder/path`. Raises UserError. Nothing is checked yet."""
    fetch = functools.partial(hub_api().hf_hub_download, name.repository, path, repo_type="dataset")
    return Path(ask(name, functools.partial(fetch, revision=name.revision, local_dir=folder), attempts=2))


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress bars of the client during the block: a large dataset has thousands of files."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _commit_of(name: HubName, sha: object) -> str:
    if not isinstance(sha, str):
        raise UserError(f"{name}: the Hub's answer has no commit; run the same command again")
    return sha
