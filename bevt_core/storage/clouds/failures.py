"""What an error of obstore means. Its kind and status are in its type and its text only."""

import re
from dataclasses import dataclass
from enum import Enum

from schemas.text.credentials import masked

_STATUS = re.compile(r"status code: (\d{3}) ?([^:\n]*)")
_CODE = re.compile(r"<Code>\s*(.*?)\s*</Code>", re.DOTALL)
_MESSAGE = re.compile(r"<Message>\s*(.*?)\s*(?:\n.*)?</Message>|\"message\":\s*\"(.*?)\"", re.DOTALL)
_CAUSE = re.compile(r"message: \"([^\"]+)\"|\b(IncompleteBody|IncompleteMessage|TimedOut|InvalidCertificate)\b")
_GENERIC = re.compile(r"^Generic \w+ error: ")
_URL = re.compile(r"\b(?:performing [A-Z]+ )?https?://\S+|performing [A-Z]+ REDACTED")
_ELAPSED = re.compile(r" in [\d.]+(?:ns|µs|ms|s)\b")
_BAD_PATH = re.compile(r"[Pp]ath \"(.*?)\"")
_CLOCK = ("RequestTimeTooSkewed", "Request date header too old", "reasonable timeframe")
_CONFLICTS = ("BlobAlreadyExists", "UnspecifiedCondition")  # of a conditional put in Azure


class Kind(Enum):
    MISSING = "missing"
    EXISTS = "exists"  # the condition of a conditional put failed
    DENIED = "denied"
    NO_CREDENTIALS = "no credentials"
    CLOCK = "clock"  # the clocks of this machine and the store differ
    REGION = "region"
    BAD_NAME = "bad name"  # a listed key that cannot be a path
    NOT_SUPPORTED = "not supported"
    REFUSED = "refused"  # no retry can fix it
    TEMPORARY = "temporary"


@dataclass(frozen=True)
class Failure:
    kind: Kind
    text: str  # one line without the URL, which is in every message already


def failure_of(error: Exception) -> Failure:
    """Return the meaning of an exception of obstore."""
    full = str(error)
    if type(error).__name__ == "InvalidPathError":
        found = _BAD_PATH.search(full)
        return Failure(Kind.BAD_NAME, found[1] if found else one_line(error))
    return Failure(_kind(type(error).__name__, full), one_line(error))


def _kind(name: str, full: str) -> Kind:
    status = _STATUS.search(full)
    code = int(status[1]) if status else None
    if any(word in full for word in _CLOCK):
        return Kind.CLOCK
    asks_for_token = "Error performing token request" in full or "/latest/api/token" in full
    if asks_for_token or (name == "UnauthenticatedError" and code is None):
        return Kind.TEMPORARY if code in (408, 429) or (code or 0) >= 500 else Kind.NO_CREDENTIALS
    if "incorrectly configured region" in full or "AuthorizationHeaderMalformed" in full:
        return Kind.REGION
    if code is None:  # no answer, or one that is not the protocol's; but a shorter object than before stays short
        return Kind.REFUSED if "UnexpectedRange" in full else Kind.TEMPORARY
    if code == 412 or (code == 409 and any(word in full for word in _CONFLICTS)):
        return Kind.EXISTS
    if "ExpiredToken" in full:
        return Kind.DENIED
    if code in (400, 403) and ("RequestTimeout" in full or "<Code>SlowDown" in full):
        return Kind.TEMPORARY
    if code == 501:
        return Kind.NOT_SUPPORTED
    by_code = {401: Kind.DENIED, 403: Kind.DENIED, 404: Kind.MISSING, 408: Kind.TEMPORARY, 409: Kind.TEMPORARY}
    return by_code.get(code, Kind.TEMPORARY if code == 429 or code >= 500 else Kind.REFUSED)


def one_line(error: Exception) -> str:
    """What happened, without URLs and credentials, in at most 200 characters."""
    text, _, debug = str(error).partition("\n\nDebug source:")
    status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if status:
        words = [f"{status[1]} {status[2].strip()}".strip()]
        words += [code[1]] if code else []
        words += [next(group for group in message.groups() if group is not None)] if message else []
        line = ": ".join(word for word in words if word)
    else:
        cause = _CAUSE.search(debug)
        line = _GENERIC.sub("", _ELAPSED.sub("", _URL.sub("", text)))
        why = (cause[1] or cause[2]) if cause else ""
        line += f" ({why})" if why and why not in line else ""
    return masked(" ".join(line.split()))[:200]
