"""Seeded damage to a text file: what cut downloads, editors, spreadsheets and typing mistakes do to one."""

import random
import re
from collections.abc import Callable

FIELD = re.compile(rb"[\t,; ]")
NUMBER = re.compile(rb"\d+")
NUMBERS = (b"1" + b"0" * 20, b"9" * 5000, b"-1", b"10.0", b"1e400", b"NaN", b"2147483648", b"0x10", b"", b"1700000000")
PIECES = (
    b"\0",
    b'"',
    b"'",
    b"\\",
    b"/",
    b"../",
    b",",
    b"\t",
    b"\r",
    b"\xe9",
    b"\xff\xfe",
    b"{",
    b"[",
    b"]",
    b"}",
    b"\n",
)


def mutate(data: bytes, seed: int) -> bytes:
    """Return `data` with one to three kinds of damage, which depend on the seed alone."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(KINDS)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 3, 50)) if data else 0):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(1, 40) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + rng.choice(PIECES) * rng.choice((1, 1, 1, 2000)) + data[start:]


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def _repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join([*lines, rng.choice(lines)])


def _swap_fields(data: bytes, rng: random.Random) -> bytes:
    """Of one line, or, as a spreadsheet does it, of all."""
    lines = data.split(b"\n")
    some = range(len(lines)) if rng.random() < 0.3 else [rng.randrange(len(lines))]
    for i in some:
        fields = FIELD.split(lines[i])
        rng.shuffle(fields)
        lines[i] = b",".join(fields)
    return b"\n".join(lines)


def _other_number(data: bytes, rng: random.Random) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    where = rng.choice(found)
    return data[: where.start()] + rng.choice(NUMBERS) + data[where.end() :]


def _other_encoding(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", errors="replace")
    return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp037")), errors="replace")


def _other_file(data: bytes, rng: random.Random) -> bytes:
    pages = (b"<!DOCTYPE html><html><body>404</body></html>", b"", b"version https://git-lfs.github.com/spec/v1\n")
    more = (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"PK\x03\x04" + data[:99],
        b"\n" * 999,
        b"null",
        b'"text"',
        b"[[]]",
        b"{}",
    )
    return rng.choice(pages + more)


def _windows(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"/", b"\\").replace(b"\n", b"\r\n")


Damage = Callable[[bytes, random.Random], bytes]
KINDS: tuple[Damage, ...] = (
    _flip,
    _flip,
    _cut,
    _cut,
    _remove,
    _insert,
    _insert,
    _swap_lines,
    _repeat_line,
    _swap_fields,
    _swap_fields,
    _other_number,
    _other_number,
    _other_encoding,
    _other_file,
    _windows,
)
