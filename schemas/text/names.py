"""Paths that somebody else wrote: do they stay below their folder? Without pydantic, for the command table."""

import re

from schemas.errors import UserError

ALLOW = "nothing outside it is read unless --allow-outside is given"

_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")


def leads_out(path: str) -> str | None:
    """Return why `path` does not name something below the folder that it is relative to; None where it does.

    Paths have slashes, and are as our writers have them: without empty components, `.` and `..`. What Windows would
    take for a drive, an absolute path or `..` leads out as well; other backslashes are part of a name.
    """
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it has a zero character"
    if path != path.encode(errors="replace").decode():
        return "it has characters that UTF-8 cannot write"
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        return "it is absolute"
    if ".." in re.split(r"[\\/]", path):
        return "it has `..`"
    if any(name in ("", ".") for name in path.split("/")):
        return "it has an empty component or `.`"
    return None


def check_below(path: str, folder: object) -> None:
    """Raise UserError, naming `folder`, for a path that `leads_out` of it."""
    why = leads_out(path)
    if why is not None:
        raise UserError(f"{path!r} leads out of {folder}: {why}; {ALLOW}")
