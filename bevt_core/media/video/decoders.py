"""The decoders that a recipe may prefer to PyAV, and whether they can be used here."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from bevt_core.console.installation import install_command
from bevt_core.media.video.video_file import VideoInfo
from bevt_core.media.video.with_decord import read_with_decord, why_not_decord
from bevt_core.media.video.with_torchcodec import read_with_torchcodec, why_not_torchcodec
from schemas.errors import UserError
from schemas.frames import VideoDecoder


class Preferred(NamedTuple):
    """A decoder that is tried before PyAV."""

    why_not: Callable[[VideoInfo], str | None]
    read: Callable[..., Any]  # as read_with_decord
    slower_for: frozenset[str]  # codecs that PyAV decodes faster, by skipping frames that no other one depends on
    install: str


PREFERRED: dict[VideoDecoder, Preferred] = {
    "decord": Preferred(
        why_not_decord,
        read_with_decord,
        frozenset({"h264", "hevc", "mpeg4"}),
        "it exists for Linux on x86_64, where `pip install decord` installs it",
    ),
    "torchcodec": Preferred(
        why_not_torchcodec,
        read_with_torchcodec,
        frozenset(),
        "it needs `{install}` and FFmpeg's shared libraries, as in the system's package `ffmpeg`",
    ),
}


def imports_of(decoder: VideoDecoder) -> tuple[str, ...]:
    """Return the modules that a child process imports for this decoder before its memory is limited."""
    return ("torchcodec",) if decoder == "torchcodec" else ()  # it imports torch, which takes gigabytes of addresses


def check_decoder(decoder: VideoDecoder) -> None:
    """Raise UserError if this decoder cannot be used here."""
    if decoder not in PREFERRED:
        return
    try:
        module = importlib.import_module(decoder)
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: from its native part
        reason = f"cannot be imported ({type(error).__name__})"
    else:
        if decoder != "torchcodec" or module.ffmpeg_major_version is not None:
            return
        reason = "finds no FFmpeg that it supports"
    fix = PREFERRED[decoder].install.format(install=install_command(decoder))
    raise UserError(f"`decoder` {decoder}: {reason}; {fix}, or set decoder=pyav")
