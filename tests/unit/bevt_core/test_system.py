"""What differs between systems, where the other one can be imitated."""

import fcntl
import importlib.util
import os
import struct
import sys

import pytest

from bevt_core import processes, system


def test_locks_have_the_layout_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    spec = importlib.util.spec_from_file_location("system_of_macos", system.__file__)
    assert spec is not None and spec.loader is not None
    macos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macos)
    request = macos.pack_lock(fcntl.F_WRLCK)
    assert struct.unpack("qqihh", request) == (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)  # start, length, pid, type, whence
    assert macos.kind_of_lock(request) == fcntl.F_WRLCK and macos.SOCKET_PATH_BYTES == 103
    assert system.kind_of_lock(system.pack_lock(fcntl.F_RDLCK)) == fcntl.F_RDLCK


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  501     1 S+     1:02.50  20480 /Applications/My App/Contents/My App", (501, 1, "S", "My App", 62.5)),
        ("    7     2 T    1-02:03:04     4 raylet", (7, 2, "T", "raylet", 93784.0)),
    ],
)
def test_lines_of_ps_are_understood(line: str, expected: tuple[object, ...]) -> None:
    assert processes._parsed_ps(line)[:5] == expected


def test_ps_and_proc_agree() -> None:
    (by_ps,) = processes._from_ps("-p", str(os.getpid()))
    by_proc = processes.process_of(os.getpid())
    assert by_proc is not None and by_ps[:2] == by_proc[:2] == (os.getpid(), os.getppid())
    assert abs(by_ps.cpu_s - by_proc.cpu_s) < 2
    assert by_ps.resident_bytes == pytest.approx(by_proc.resident_bytes, rel=0.2)
