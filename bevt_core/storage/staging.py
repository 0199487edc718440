"""Half-written files and folders: beside what they become, under names nobody can guess, locked while they are written.

    <folder>/.<name>@<word>               a file; it is locked itself
    <folder>/.staging/<name>@<word>       a folder
    <folder>/.staging/<name>@<word>.lock  its lock: made before it, removed after it

The lock ends with its process, on any host and in any container. So what is not locked is what a killed writer left.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bevt_core.console.disk_errors import explained
from bevt_core.storage.locks.file_locks import EXCLUSIVE, TRIES, let_go, remove_and_let_go, take, take_new
from schemas.errors import StorageError, UserError

STAGING = ".staging"  # the folder of half-written folders, on the same file system as what they become
_WORD = r"@[0-9a-f]{16}"
WRITER, READERS = ".writer", ".readers"  # the lock files of `one_writer`, or how their names end
_FILE, _FOLDER = re.compile(rf"\..+{_WORD}|\..*\{WRITER}|\{WRITER}|\{READERS}"), re.compile(rf".+{_WORD}")


@contextmanager
def staged_file(target: Path, put: Callable[[Path, Path], None] = os.replace) -> Iterator[BinaryIO]:
    """A fresh file, open for writing, that `put(staged, target)` makes `target` when the block ends well.

    After an exception `target` is what it was. Disk trouble is a StorageError that names `target`.
    """
    staged = None
    try:
        staged, descriptor = _locked_file(target)
        with open(descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        put(staged, target)
        fsync_dir(target.parent)
    except OSError as error:
        raise explained(error, target) from error
    finally:
        if staged is not None:
            with contextlib.suppress(OSError):  # it is gone, or the disk has become read-only
                staged.unlink()
            let_go(descriptor)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder that becomes `target` when the block ends well, in one rename.

    If `target` exists by then, another writer of the same content won: the fresh folder is dropped. After an exception
    nothing is left.
    """
    try:
        with _locked_folder(target.parent / STAGING, target.name) as staging:
            yield staging
            fsync_tree(staging)
            try:
                staging.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            fsync_dir(target.parent)
    except OSError as error:
        raise explained(error, target) from error


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A fresh folder on a local disk, in $TMPDIR, that is gone when the block ends."""
    folder = scratch()
    try:
        with _locked_folder(folder / STAGING, name) as staging:
            yield staging
    except OSError as error:
        raise explained(error, folder) from error


def scratch() -> Path:
    """This user's folder in $TMPDIR, where no other user may write. Raises StorageError where it is another's."""
    folder = Path(tempfile.gettempdir()) / f"bevt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise explained(error, folder) from error
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StorageError(errno.EACCES, f"{folder}: it belongs to another user; set TMPDIR to a folder of your own")
    return folder


def discard(folder: Path) -> None:
    """Remove a folder: out of sight at once, by a rename, so that nobody sees a part of it."""
    trash = folder.parent / STAGING / f"{folder.name}{_word()}"
    _check_no_link(trash.parent)
    try:
        try:
            trash.parent.mkdir(exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            trash = folder  # a full disk has no room for another folder
        else:
            folder.rename(trash)
    except OSError as error:
        raise explained(error, folder) from error
    shutil.rmtree(trash, ignore_errors=True)  # somebody who cleans up may be at it, too
    with contextlib.suppress(OSError):  # somebody writes
        (folder.parent / STAGING).rmdir()


def clean_local_staging(folder: Path) -> None:
    """Remove what writers that are no longer alive left half-written in `folder`, and their lock files.

    Other processes may do the same at the same time. Where the file system has no locks everything stays, as nobody can
    know who is alive.
    """
    staging = folder / STAGING
    for file in [path for path in _listed(folder) if _FILE.fullmatch(path.name)]:
        _remove_if_dead(file, lambda: None)
    if staging.is_symlink():  # none of ours: what it leads to is somebody else's
        return
    entries = [path for path in _listed(staging) if _FOLDER.fullmatch(path.name.removesuffix(".lock"))]
    for entry in {path.with_name(path.name.removesuffix(".lock")) for path in entries}:
        lock = entry.with_name(f"{entry.name}.lock")
        if lock.exists():
            _remove_if_dead(lock, functools.partial(shutil.rmtree, entry, ignore_errors=True))
        else:  # it was made before the folder, and is removed after it: this one is in nobody's use
            shutil.rmtree(entry, ignore_errors=True)
    with contextlib.suppress(OSError):  # somebody writes, or removed it
        staging.rmdir()


def fsync_dir(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_dir(Path(root))


def _locked_file(target: Path) -> tuple[Path, int]:
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        staged = target.with_name(f".{target.name}{_word()}")
        descriptor = take_new(staged)
        if descriptor is not None:
            return staged, descriptor
    raise OSError(errno.EBUSY, f"{target}: what is written is removed all the time", str(target))


@contextmanager
def _locked_folder(staging: Path, name: str) -> Iterator[Path]:
    """A fresh folder in one that another process's `clean_local_staging` may remove in between."""
    _check_no_link(staging)
    for _ in range(TRIES):
        folder = staging / f"{name}{_word()}"
        lock = folder.with_name(f"{folder.name}.lock")
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # the second of a parent just removed
            staging.mkdir(parents=True, exist_ok=True)
            descriptor = take_new(lock)
            if descriptor is not None:
                break
    else:
        raise OSError(errno.EBUSY, f"{staging}: it is removed all the time", str(staging))
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.unlink()
        let_go(descriptor)
        with contextlib.suppress(OSError):  # somebody else writes
            staging.rmdir()


def _check_no_link(staging: Path) -> None:
    if staging.is_symlink() or (staging.exists() and not staging.is_dir()):
        raise UserError(f"{staging}: a link or a file, expected a folder of half-written things; remove it")


def _remove_if_dead(file: Path, clear: Callable[[], None]) -> None:
    """`clear()` and remove `file`, unless its writer is alive."""
    if not file.exists():
        return
    try:
        descriptor = take(file, EXCLUSIVE)
    except OSError:  # without locks nobody can know
        return
    if descriptor is not None:
        clear()
        remove_and_let_go(file, descriptor)


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, if it is one."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _word() -> str:
    return f"@{uuid.uuid4().hex[:16]}"
