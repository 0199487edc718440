"""What is wrong with a video or a picture. No decoder is imported here: training has no need of one."""

from bevt_core.storage.objects import AnyPath
from schemas.frames import Stage


class MediaError(Exception):
    """A source that cannot be used: at which stage, a short reason to count by, and a message for people."""

    def __init__(self, stage: Stage, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage: Stage = stage
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str, str]]:
        return MediaError, (self.stage, self.reason, self.message)


def one_line(error: BaseException, path: AnyPath) -> str:
    """An error as one line of at most 300 characters, without the file's place: equal on every machine."""
    text = getattr(error, "strerror", None) or str(error)
    for place in (str(path.absolute()), str(path)):
        text = text.replace(place, path.name)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]
