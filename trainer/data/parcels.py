"""Transfer of batches between processes in anonymous memory, which is independent of /dev/shm and its size.

A parcel is a file descriptor of such memory (memfd_create; on macOS an unlinked file): first the tensors, then the
pickled rest. The memory is freed with the last tensor that uses it, or when the processes end.
"""

import io
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bevt_core.system import PREFAULTED, anonymous_file
from trainer.data.shared_pickle import write_at

ALIGNMENT = 64  # bytes
_HEADER = struct.Struct("<QQ")  # offset and length of the pickle


class _Stored(NamedTuple):
    """A tensor's location in a parcel."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # in bytes


class _Pickler(pickle.Pickler):
    """Leaves out tensors, and lists them with their offsets."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[tuple[int, Tensor]] = []
        self.end = 0

    def persistent_id(self, value: Any) -> _Stored | None:
        if not isinstance(value, Tensor):
            return None
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.tensors.append((offset, value))
        self.end = offset + value.nbytes
        return _Stored(value.dtype, tuple(value.shape), offset)


class _Unpickler(pickle.Unpickler):
    """Makes tensors from the memory of a parcel, each passed to `transfer`."""

    def __init__(self, pickled: bytes, memory: mmap.mmap, transfer: Callable[[Tensor], Tensor]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.memory, self.transfer = memory, transfer

    def persistent_load(self, stored: _Stored) -> Tensor:
        dtype, shape, offset = stored
        numel = torch.Size(shape).numel()
        if not numel:
            return torch.empty(shape, dtype=dtype)
        return self.transfer(torch.frombuffer(self.memory, dtype=dtype, count=numel, offset=offset).view(shape))


def send(to: socket.socket, value: Any) -> None:
    """Send a picklable value, whose tensors are on the CPU. Raises OSError if the other side has ended."""
    rest = io.BytesIO()
    pickler = _Pickler(rest)
    pickler.dump(value)
    memory = anonymous_file("bevt-batch")
    try:
        for offset, tensor in pickler.tensors:
            write_at(memory, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, offset)
        write_at(memory, rest.getbuffer(), pickler.end)
        socket.send_fds(to, [_HEADER.pack(pickler.end, len(rest.getbuffer()))], [memory])
    finally:
        os.close(memory)


def receive(source: socket.socket, transfer: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Any:
    """Return a value from `send`, with `transfer` applied to its tensors. Raises EOFError if the sender has ended."""
    try:
        message, descriptors, _, _ = socket.recv_fds(source, _HEADER.size, 1)
    except ConnectionError:
        raise EOFError from None
    if not message or not descriptors:
        raise EOFError
    start, length = _HEADER.unpack(message)
    try:
        memory = mmap.mmap(descriptors[0], start + length, flags=mmap.MAP_SHARED | PREFAULTED)
    finally:
        os.close(descriptors[0])
    return _Unpickler(memory[start:], memory, transfer).load()
