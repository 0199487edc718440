"""Checks that an untrusted relative path stays below its folder. Imports no pydantic, for the command table."""

import re

from schemas.errors import UserError

ALLOW = "nothing outside it is read unless --allow-outside is given"

_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")


def leads_out(path: str) -> str | None:
    """Return why `path` does not stay below the folder that it is relative to; None if it does.

    Paths use slashes, without empty components, `.` and `..`, as bevt writes them. A drive, absolute path or `..` in
    the syntax of Windows leads out as well; other backslashes are part of a name.
    """
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it contains a zero character"
    if path != path.encode(errors="replace").decode():
        return "it contains characters that UTF-8 cannot encode"
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        return "it is absolute"
    if ".." in re.split(r"[\\/]", path):
        return "it contains `..`"
    if any(name in ("", ".") for name in path.split("/")):
        return "it contains an empty component or `.`"
    return None


def check_below(path: str, folder: object) -> None:
    """Raise UserError, naming `folder`, if `path` leads out of it."""
    why = leads_out(path)
    if why is not None:
        raise UserError(f"{path!r} leads out of {folder}: {why}; {ALLOW}")
