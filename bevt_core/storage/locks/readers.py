"""The lock between readers of a local frame store or token set and removers of its parts: `<store>/.readers`."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bevt_core.storage.locks.exclusive import locked
from bevt_core.storage.locks.file_locks import SHARED, is_held_here, remove_and_release, take
from bevt_core.storage.locks.owners import note, owner_of
from bevt_core.storage.staging import READERS
from schemas.errors import UserError


@contextmanager
def read_store(store: Path, command: str) -> Iterator[None]:
    """Share the store with other readers for the block. Raises UserError if parts are being removed from it.

    If the store cannot be locked, the block runs without a lock.
    """
    lock, descriptor = store / READERS, None
    if not is_held_here(lock):
        with contextlib.suppress(OSError):  # another user's store, or a disk without locks
            descriptor = take(lock, SHARED)
            if descriptor is None:
                raise UserError(
                    f"{store}: {owner_of(lock) or 'another process'} is removing parts of it; wait until it ends"
                )
            note(descriptor, command)
    try:
        yield
    finally:
        if descriptor is not None:
            remove_and_release(lock, descriptor)


@contextmanager
def remove_from_store(store: Path, command: str) -> Iterator[None]:
    """Keep readers out of the store for the block. Raises UserError if it is being read."""
    if not store.is_dir():
        yield
        return
    with locked(store / READERS, store, command, "is reading", "wait until it ends, or stop it"):
        yield
