"""One line of `bevt doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]  # a warning costs speed or a feature, a problem stops commands


@dataclass(frozen=True)
class Finding:
    """What was found of one subject; `advice` is empty if all is well."""

    subject: str
    value: str
    state: State = "ok"
    advice: str = ""


def ok_unless(subject: str, value: str, bad: bool, advice: str, state: State = "warning") -> Finding:
    """A finding in `state`, with `advice`, if `bad`; else one that is fine."""
    return Finding(subject, value, state, advice) if bad else Finding(subject, value)


def guarded(subject: str, find: Callable[[], Finding]) -> Finding:
    """Return what `find` returns; a failure of it is a problem, so that one broken library hides no other line."""
    try:
        return find()
    except Exception as error:  # noqa: BLE001 - shown as the finding, whatever a broken library raises
        reason = " ".join(str(error).split())[:200]
        advice = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        return Finding(subject, "failed", "problem", advice)
