"""What Linux offers and macOS lacks, each with its replacement. Processes are in `bevt_core/processes.py`.

A feature is used where it is found. Only what cannot be found by looking depends on the system's name.
"""

import contextlib
import fcntl
import mmap
import os
import resource
import struct
import sys
import tempfile
from pathlib import Path

MACOS = sys.platform == "darwin"
PROC = Path("/proc") if Path("/proc/self/stat").exists() else None
SHARED_MEMORY = Path("/dev/shm")  # not on macOS
SOCKET_PATH_BYTES = 103 if MACOS else 107  # of a Unix socket's path, without the final zero byte
PREFAULTED = getattr(mmap, "MAP_POPULATE", 0)  # flag of mmap: map all pages at once
LIMITS_ADDRESS_SPACE = PROC is not None  # macOS accepts RLIMIT_AS, but does not enforce it
_MAXRSS_BYTES = 1 if MACOS else 1024
# struct flock of 64-bit systems
_FLOCK = struct.Struct("qqihh" if MACOS else "hhqqi4x")
_FLOCK_FIELDS = ("start", "length", "pid", "type", "whence") if MACOS else ("type", "whence", "start", "length", "pid")


def anonymous_file(name: str) -> int:
    """Return the descriptor of a new file without a path: in memory, or on macOS an unlinked one in TMPDIR."""
    if hasattr(os, "memfd_create"):
        return int(os.memfd_create(name))
    descriptor, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)  # noqa: PTH108 - a string
    return descriptor


def widen_pipe(descriptor: int, num_bytes: int) -> None:
    """Enlarge a pipe's buffer, if the system can: on macOS, it adapts by itself, up to 64 KiB."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, num_bytes)


def limit_address_space(more_bytes: int) -> None:
    """Let this process map at most `more_bytes` beyond what it has now. Only where LIMITS_ADDRESS_SPACE."""
    assert PROC is not None
    used = int((PROC / "self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = used + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def write_through(descriptor: int) -> None:
    """Write a file or folder to the disk. On macOS, fsync alone would leave it in the disk's cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        with contextlib.suppress(OSError):  # a file system without it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def forget_pages(descriptor: int) -> None:
    """Ask the system to drop a file from its memory, so that the next read comes from the disk; not on macOS."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, getattr(os, "POSIX_FADV_DONTNEED"))  # noqa: B009 - mypy on macOS


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


def pack_lock(kind: int) -> bytes:
    """Return fcntl's request for a lock of the whole file; `kind` is F_RDLCK, F_WRLCK or F_UNLCK."""
    return _FLOCK.pack(*(kind if field == "type" else 0 for field in _FLOCK_FIELDS))


def kind_of_lock(reply: bytes) -> int:
    """Return the kind of lock in fcntl's reply."""
    return int(_FLOCK.unpack(reply)[_FLOCK_FIELDS.index("type")])
