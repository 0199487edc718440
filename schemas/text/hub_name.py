"""Names of repositories on the Hugging Face Hub, as `hf://ORG/NAME@REVISION`."""

import re
from dataclasses import dataclass, replace

from schemas.errors import UserError

SCHEME = "hf://"
FORM = "hf://ORG/NAME or hf://ORG/NAME@REVISION"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A repository, and the branch, tag or commit to read; None: its default branch."""

    repository: str  # ORG/NAME
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a whole commit hash, so that the name always means the same files."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> "HubName":
        """Return the name of the same repository at another revision."""
        return replace(self, revision=commit)


def hub_name(text: object) -> HubName | None:
    """Return the name in `text`; None if it does not begin with hf://. Raises UserError for a malformed name."""
    name = str(text)
    if not name.startswith(SCHEME):
        if name.startswith("hf:/"):
            raise UserError(f"{name}: a path drops a slash of {SCHEME}; give the name as a string, such as {FORM}")
        return None
    repository, at, revision = name.removeprefix(SCHEME).partition("@")
    check_repository(repository, name)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise UserError(f"{name}: {revision!r} is no branch, tag or commit; expected {FORM}")
    return HubName(repository, revision or None)


def repository_name(text: str, revision: str | None = None) -> HubName:
    """Return the name in `ORG/NAME`, `ORG/NAME@REVISION` or hf://...; `revision` replaces its own.

    Raises UserError for a malformed name.
    """
    name = text if text.startswith(SCHEME) else f"{SCHEME}{text}"
    found = hub_name(name if revision is None else f"{name.partition('@')[0]}@{revision}")
    assert found is not None
    return found


def check_repository(repository: str, where: str) -> None:
    """Raise UserError, naming `where`, unless `repository` is ORG/NAME as the Hub allows it."""
    if not _REPOSITORY.fullmatch(repository) or "--" in repository or ".." in repository:
        raise UserError(f"{where}: {repository!r} is no name of a repository; expected ORG/NAME, such as {FORM}")
