"""A pickled value in anonymous memory, whose arrays the processes that read it share instead of copying.

The memory: a header, the buffers of NumPy arrays and Arrow columns (pickle protocol 5), the rest of the pickle.
"""

import mmap
import os
import pickle
import struct
from typing import Any

ALIGNMENT = 64  # bytes
_COUNT = struct.Struct("<Q")  # number of buffers
_PIECE = struct.Struct("<QQ")  # offset and length of a buffer, in bytes; the last piece is the rest of the pickle


def write_shared(value: Any, descriptor: int) -> None:
    """Pickle `value` into the empty file `descriptor`, for `read_shared`."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pieces = [*(buffer.raw() for buffer in buffers), memoryview(rest)]
    start = _COUNT.size + _PIECE.size * len(pieces)
    header = [_COUNT.pack(len(buffers))]
    offsets = []
    for piece in pieces:
        start = -(-start // ALIGNMENT) * ALIGNMENT
        offsets.append(start)
        header.append(_PIECE.pack(start, piece.nbytes))
        start += piece.nbytes
    write_at(descriptor, memoryview(b"".join(header)), 0)
    for piece, offset in zip(pieces, offsets, strict=True):
        write_at(descriptor, piece, offset)


def read_shared(descriptor: int) -> Any:
    """The value that `write_shared` wrote. Its arrays are read-only and use the memory of the file."""
    memory = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))  # not read(): workers share the file's offset
    (count,) = _COUNT.unpack_from(memory)
    pieces = []
    for number in range(count + 1):
        offset, length = _PIECE.unpack_from(memory, _COUNT.size + number * _PIECE.size)
        pieces.append(memory[offset : offset + length])
    return pickle.loads(pieces[-1], buffers=pieces[:-1])


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` to a file, from `offset` on."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
