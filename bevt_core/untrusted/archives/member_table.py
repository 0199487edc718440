"""The members of an archive in arrays: a million of them take 0.1 GB, a third of what as many tuples take."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from bevt_core.untrusted.archives.members import Member, Method


class MemberTable(Sequence[Member]):
    """Members, in order."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self.names: list[str] = []
        self._methods: list[Method] = []
        self._numbers = array("q")  # for each: offset, stored_bytes, num_bytes, crc32 (-1: none)
        for name, offset, stored_bytes, num_bytes, method, crc32 in members:
            self.names.append(name)
            self._methods.append(method)
            self._numbers.extend((offset, stored_bytes, num_bytes, -1 if crc32 is None else crc32))

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Member: ...
    @overload
    def __getitem__(self, at: slice) -> list[Member]: ...
    def __getitem__(self, at: int | slice) -> Member | list[Member]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        offset, stored_bytes, num_bytes, crc32 = self._numbers[4 * at : 4 * at + 4]
        crc = None if crc32 < 0 else crc32
        return Member(self.names[at], offset, stored_bytes, num_bytes, self._methods[at], crc)
