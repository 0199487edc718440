"""Removes from this process what macOS lacks. Imported at the start of the interpreter, so it imports little."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
import sys
from importlib.machinery import PathFinder
from types import MethodType

LIBC = ("prctl", "clock_getcpuclockid")
NAMES = {
    errno: "EREMOTEIO EREMCHG EBADR ENOMEDIUM",
    fcntl: "F_SETPIPE_SZ F_GETPIPE_SZ F_OFD_SETLK F_OFD_SETLKW F_OFD_GETLK F_NOTIFY F_ADD_SEALS",
    mmap: "MAP_POPULATE MAP_DENYWRITE MAP_EXECUTABLE",
    os: "memfd_create MFD_CLOEXEC eventfd pidfd_open copy_file_range splice getrandom sched_getaffinity "
    "sched_setaffinity posix_fadvise POSIX_FADV_DONTNEED posix_fallocate fdatasync getxattr setxattr O_DIRECT O_PATH",
    resource: "prlimit RLIMIT_OFILE RLIMIT_MSGQUEUE",
    select: "epoll",
    socket: "SO_PEERCRED MSG_CMSG_CLOEXEC AF_NETLINK AF_ALG",
}
FOLDERS = ("/proc", "/sys", "/dev/shm")
PACKAGES = ("decord", "ray", "triton")  # Ray has a macOS version, but training and prediction do not need it


def remove() -> None:
    """Remove the functions, hide the folders, and block the packages."""
    for module, names in NAMES.items():
        for name in names.split():
            vars(module).pop(name, None)
    look_up = ctypes.CDLL.__getattr__

    def without_some(library: ctypes.CDLL, name: str) -> object:
        if name in LIBC:
            raise AttributeError(name)
        return look_up(library, name)

    ctypes.CDLL.__getattr__ = without_some  # type: ignore[method-assign]
    stat = os.stat

    def stat_of_the_rest(path: object, **options: object) -> os.stat_result:
        if is_hidden(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return stat(path, **options)  # type: ignore[arg-type]

    os.stat = stat_of_the_rest  # type: ignore[assignment]
    sys.addaudithook(refuse_hidden)
    find = PathFinder.find_spec

    def find_others(finder: type[PathFinder], name: str, *where: object) -> object:
        return None if name in PACKAGES else find(name, *where)  # type: ignore[arg-type]

    PathFinder.find_spec = MethodType(find_others, PathFinder)  # type: ignore[assignment] # bound: pytest makes it an attribute of a class


def is_hidden(path: object) -> bool:
    """Whether it is one of FOLDERS or below one, and asked for by our code, not by a library that expects Linux."""
    if not isinstance(path, str | os.PathLike):
        return False
    text = os.fspath(path)
    if not isinstance(text, str) or not any(text == folder or text.startswith(f"{folder}/") for folder in FOLDERS):
        return False
    frame = sys._getframe(1)
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in ("bevt_core", "pipeline", "trainer", "schemas", "cli"):
            return True
        if package not in ("tests", "pathlib", "io", "os", "posixpath", "genericpath", "codecs", ""):
            return False
        frame = frame.f_back
    return False


def refuse_hidden(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and is_hidden(arguments[0]):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])
