"""Requests to the Hugging Face Hub: brief failures are tried again; others are one UserError with its fix."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bevt_core.console.disk_errors import FULL_OR_READ_ONLY, explained
from schemas.errors import StorageError, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

R = TypeVar("R")

ATTEMPTS = 4
FIRST_WAIT_S = 1.0  # doubles; the Hub's Retry-After takes precedence
MAX_WAIT_S = 330.0  # the Hub counts requests in windows of five minutes
TIMEOUT_S = 30.0
SILENT_S = 300.0  # without a byte, after which a request fails that the library sends without a limit
SHOWN_CHARACTERS = 200  # of the library's message
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_BRIEF = (408, 429, 500, 502, 503, 504)  # HTTP status


def hub_api() -> "HfApi":
    """Return the client for $HF_ENDPOINT (default: huggingface.co), with the token of `hf auth login` or $HF_TOKEN."""
    from huggingface_hub import HfApi

    return HfApi(library_name="bevt")


def ask(where: object, request: Callable[[], R], attempts: int = ATTEMPTS) -> R:
    """Return the result of `request`, which calls the Hub. `where` names the repository in messages.

    Brief failures (no answer, 408, 429, 5xx) are tried again, up to `attempts` times in all.
    Raises UserError with a fix, HubUnreachableError if there is no network, StorageError for a full disk.
    """
    for attempt in range(attempts):
        _limit_silence()
        try:
            return request()
        except (UserError, StorageError):
            raise
        except failures() as error:
            cause = _cause(error)
            if attempt + 1 == attempts or not _is_brief(cause):
                raise _explained(where, cause) from error
            time.sleep(_asked_wait_s(cause) or FIRST_WAIT_S * 2**attempt)
    raise AssertionError


class HubUnreachableError(UserError):
    """The Hub did not answer, or answered with an error of its own; a cached copy may do."""

    def __init__(self, message: str, asked_wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.asked_wait_s = asked_wait_s  # before the next request


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that `huggingface_hub` raises for failed requests and malformed answers."""
    return (*_network_errors(), OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def _limit_silence() -> None:
    """Make the client's HTTP session limit requests that have no time limit, such as those of listings."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    if _limit_request not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _limit_request]}


def _limit_request(request: Any) -> None:
    """Set the limits that a request lacks: to connect, to read, to write and for a free connection."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {kind: SILENT_S if limit is None else limit for kind, limit in limits.items()}


def _network_errors() -> tuple[type[Exception], ...]:
    """Those of the client's HTTP library, which is httpx2 or, in older versions, httpx."""
    return tuple(sys.modules[name].HTTPError for name in ("httpx2", "httpx") if name in sys.modules)


def _cause(error: BaseException) -> BaseException:
    """The failed request behind an error of the client, such as "Error while uploading 'a'"."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cause = error.__cause__
    wraps = isinstance(error, LocalEntryNotFoundError) or (isinstance(error, RuntimeError) and cause is not None)
    return error if isinstance(error, HfHubHTTPError) or not wraps or cause is None else _cause(cause)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_brief(error: BaseException) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return False
    status = _status(error)
    return status in _BRIEF if status is not None else isinstance(error, _network_errors())


def _asked_wait_s(error: BaseException) -> float:
    """The wait that the Hub asks for in `Retry-After` or, as in `"api";r=0;t=120`, in `RateLimit`; 0 if in neither."""
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    found = re.fullmatch(r"(\d{1,9})", headers.get("Retry-After", "")) or re.search(
        r"\br=0\b.*\bt=(\d{1,9})", headers.get("RateLimit", "")
    )
    return min(MAX_WAIT_S, float(found[1])) if found else 0.0


def _explained(where: object, error: BaseException) -> UserError | StorageError:
    from huggingface_hub import constants, errors

    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{where}: its owner grants access; ask for it on the repository's page, then {LOG_IN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{where}: no such repository, or a private one; check the name, and {LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where}: the repository has no such branch, tag or commit; check what follows the @")
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        fix = "unset it, or run the command once with a network"
        return HubUnreachableError(f"{where}: needs the Hub, but HF_HUB_OFFLINE is set; {fix}")
    if status == 401:
        return UserError(f"{where}: the Hub does not accept the token; {LOG_IN}")
    if status == 403:
        return UserError(f"{where}: the token has no permission for this; {LOG_IN} with one that has write access")
    if status == 404:
        return UserError(f"{where}: not found ({_first_line(error)}); check the name and the revision")
    if status == 429:
        reason = _first_line(getattr(error, "server_message", None) or "no details")
        fix = "wait as long, or some minutes, then run the same command again"
        return HubUnreachableError(f"{where}: too many requests for the Hub ({reason}); {fix}", _asked_wait_s(error))
    if status is not None and status >= 500:
        return HubUnreachableError(
            f"{where}: {constants.ENDPOINT} answered {status} each time; run the same command again later"
        )
    if isinstance(error, _network_errors()) and status is None:
        reason = _first_line(error) or type(error).__name__
        fix = "check the network, or set HF_ENDPOINT to a mirror"
        return HubUnreachableError(f"{where}: no connection to {constants.ENDPOINT} ({reason}); {fix}")
    if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
        disk = explained(error, Path(error.filename or constants.HF_HUB_CACHE))
        return disk if isinstance(disk, StorageError) else StorageError(error.errno, str(error))
    return UserError(f"{where}: the Hub's answer is not usable ({_first_line(error)}); run the same command again")


def _first_line(error: BaseException | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:SHOWN_CHARACTERS] if lines else type(error).__name__
