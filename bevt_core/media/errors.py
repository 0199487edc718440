"""The error for unusable videos and pictures. No decoder is imported here, because training does not need one."""

from bevt_core.storage.objects import AnyPath
from schemas.frames import Stage


class MediaError(Exception):
    """A source that cannot be used: the stage that failed, a short reason for counting, and a readable message."""

    def __init__(self, stage: Stage, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage: Stage = stage
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str, str]]:
        return MediaError, (self.stage, self.reason, self.message)


def one_line(error: BaseException, path: AnyPath) -> str:
    """Format an error as one line of at most 300 characters, equal on all machines: paths are cut to names."""
    text = getattr(error, "strerror", None) or str(error)
    for full_path in (str(path.absolute()), str(path)):
        text = text.replace(full_path, path.name)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]
