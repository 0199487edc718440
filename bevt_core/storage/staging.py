"""Staging of half-written files and folders: next to their target, under random names, locked while they are written.

    <folder>/.<name>@<random>               a file, which is itself locked
    <folder>/.staging/<name>@<random>       a folder
    <folder>/.staging/<name>@<random>.lock  the folder's lock file: made before the folder, removed after it

A lock ends with its process, on any host and in any container. So an unlocked entry was left by a killed writer.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bevt_core.console.disk_errors import explained, make_folder
from bevt_core.storage.locks.file_locks import EXCLUSIVE, TRIES, release, remove_and_release, take, take_new
from bevt_core.system import write_through
from schemas.errors import StorageError, UserError

STAGING = ".staging"  # the folder of half-written folders, on the same file system as their targets
_SUFFIX = r"@[0-9a-f]{16}"
WRITER, READERS = ".writer", ".readers"  # names, or suffixes of names, of the lock files of `one_writer`
_FILE = re.compile(rf"\..+{_SUFFIX}|\..*\{WRITER}|\{WRITER}|\{READERS}")  # names of staged files and lock files
_FOLDER = re.compile(rf".+{_SUFFIX}")  # names of staged folders


@contextmanager
def staged_file(target: Path, put: Callable[[Path, Path], None] = os.replace) -> Iterator[BinaryIO]:
    """A fresh file, open for writing; `put(staged, target)` moves it to `target` when the block ends normally.

    After an exception `target` is unchanged. Disk errors become a StorageError that names `target`.
    """
    staged = None
    try:
        staged, descriptor = _locked_file(target)
        with open(descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            write_through(descriptor)
        put(staged, target)
        fsync_dir(target.parent)
    except IsADirectoryError:
        raise UserError(f"{target}: a folder, expected a file; give another path") from None
    except OSError as error:
        raise explained(error, target) from error
    finally:
        if staged is not None:
            with contextlib.suppress(OSError):  # already moved, or the disk has become read-only
                staged.unlink()
            release(descriptor)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder that becomes `target` by one rename when the block ends normally.

    If `target` exists by then, another writer of the same content was faster, and the fresh folder is removed. After an
    exception nothing is left.
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
def working_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder on the file system of `folder`, from which files are moved into it; removed at the end."""
    try:
        with _locked_folder(folder / STAGING, "work") as staging:
            yield staging
    except OSError as error:
        raise explained(error, folder) from error


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A fresh folder in $TMPDIR, which is on a local disk; removed when the block ends."""
    folder = scratch()
    try:
        with _locked_folder(folder / STAGING, name) as staging:
            yield staging
    except OSError as error:
        raise explained(error, folder) from error


def scratch() -> Path:
    """This user's private folder in $TMPDIR. Raises StorageError if it belongs to another user."""
    folder = Path(tempfile.gettempdir()) / f"bevt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise explained(error, folder) from error
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StorageError(errno.EACCES, f"{folder}: belongs to another user; set TMPDIR to your own folder")
    return folder


def discard(folder: Path) -> None:
    """Remove a folder: rename it away first, so that no other process sees part of it."""
    trash = folder.parent / STAGING / f"{folder.name}{_random_suffix()}"
    _check_staging_folder(trash.parent)
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
    shutil.rmtree(trash, ignore_errors=True)  # another process may be cleaning up the same folder
    with contextlib.suppress(OSError):  # in use by another writer
        (folder.parent / STAGING).rmdir()


def clean_local_staging(folder: Path) -> None:
    """Remove half-written files that dead writers left in `folder`, and their lock files.

    Other processes may do the same at the same time. On a file system without locks nothing is removed, since live
    writers cannot be distinguished from dead ones.
    """
    staging = folder / STAGING
    for file in [path for path in _listed(folder) if _FILE.fullmatch(path.name)]:
        _remove_if_dead(file, lambda: None)
    if staging.is_symlink():  # bevt makes no such link: its target is not ours to clean
        return
    entries = [path for path in _listed(staging) if _FOLDER.fullmatch(path.name.removesuffix(".lock"))]
    for entry in {path.with_name(path.name.removesuffix(".lock")) for path in entries}:
        lock = entry.with_name(f"{entry.name}.lock")
        if lock.exists():
            _remove_if_dead(lock, functools.partial(shutil.rmtree, entry, ignore_errors=True))
        else:  # the lock file outlives its folder, so this folder is not in use
            shutil.rmtree(entry, ignore_errors=True)
    with contextlib.suppress(OSError):  # in use by another writer, or already removed
        staging.rmdir()


def fsync_dir(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        write_through(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                write_through(file.fileno())
        fsync_dir(Path(root))


def _locked_file(target: Path) -> tuple[Path, int]:
    make_folder(target.parent)
    for _ in range(TRIES):
        staged = target.with_name(f".{target.name}{_random_suffix()}")
        descriptor = take_new(staged)
        if descriptor is not None:
            return staged, descriptor
    raise OSError(errno.EBUSY, f"{target}: other processes keep removing the file that is being written", str(target))


@contextmanager
def _locked_folder(staging: Path, name: str) -> Iterator[Path]:
    """A fresh, locked folder in `staging`, which another process's `clean_local_staging` may remove meanwhile."""
    _check_staging_folder(staging)
    for _ in range(TRIES):
        folder = staging / f"{name}{_random_suffix()}"
        lock = folder.with_name(f"{folder.name}.lock")
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # FileExistsError: a parent was just removed
            staging.mkdir(parents=True, exist_ok=True)
            descriptor = take_new(lock)
            if descriptor is not None:
                break
    else:
        raise OSError(errno.EBUSY, f"{staging}: other processes keep removing it", str(staging))
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.unlink()
        release(descriptor)
        with contextlib.suppress(OSError):  # in use by another writer
            staging.rmdir()


def _check_staging_folder(staging: Path) -> None:
    try:
        mode = staging.lstat().st_mode  # one look: another process may remove the folder between two
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise UserError(f"{staging}: a link or a file, expected bevt's staging folder; remove it")


def _remove_if_dead(file: Path, clear: Callable[[], None]) -> None:
    """Call `clear()` and remove `file`, unless its writer is alive."""
    if not file.exists():
        return
    try:
        descriptor = take(file, EXCLUSIVE)
    except OSError:  # no locks: whether the writer is alive is unknown
        return
    if descriptor is not None:
        clear()
        remove_and_release(file, descriptor)


def _listed(folder: Path) -> list[Path]:
    """The paths in a folder; empty if it is not a folder."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _random_suffix() -> str:
    return f"@{uuid.uuid4().hex[:16]}"
