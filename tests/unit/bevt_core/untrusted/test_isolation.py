"""A child process that hangs, dies or raises costs one call."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bevt_core.untrusted.isolation import ChildCrash, ChildTimeout, IsolatedFunction


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction("tests.support.misbehaviour:misbehave")
    yield function
    function.close()


def test_the_child_stays_between_calls(isolated: IsolatedFunction) -> None:
    assert isolated("a", limit_s=10) == "well: a"
    first = isolated.pid
    assert isolated("print", limit_s=10) == "well: print"
    assert len(isolated("much", limit_s=10)) == 3_000_000
    with pytest.raises(KeyError):
        isolated("raise", limit_s=10)
    assert isolated.pid == first


def test_a_hanging_child_is_killed_and_replaced(isolated: IsolatedFunction) -> None:
    isolated("a", limit_s=10)
    before, began = isolated.pid, time.monotonic()
    with pytest.raises(ChildTimeout, match=r"0\.3 s"):
        isolated("hang", limit_s=0.3)
    assert time.monotonic() - began < 5
    assert before is not None and not _alive(before)
    assert isolated("b", limit_s=10) == "well: b"


def test_it_may_ask(isolated: IsolatedFunction) -> None:
    assert isolated("ask", limit_s=10, reply=lambda number: 10 * number) == "well: 30"
    with pytest.raises(ZeroDivisionError):  # the answer fails here, in the middle of the call
        isolated("ask", limit_s=10, reply=lambda number: 1 // 0)
    assert isolated("a", limit_s=10) == "well: a"


@pytest.mark.parametrize(("how", "message"), [("segfault", "SIGSEGV"), ("exit", "status 3")])
def test_a_dying_child_is_replaced(isolated: IsolatedFunction, how: str, message: str) -> None:
    with pytest.raises(ChildCrash, match=message):
        isolated(how, limit_s=10)
    assert isolated("c", limit_s=10) == "well: c"


def test_a_child_killed_between_calls_is_replaced(isolated: IsolatedFunction) -> None:
    isolated("a", limit_s=10)
    assert isolated.pid is not None
    os.kill(isolated.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert isolated("d", limit_s=10) == "well: d"


def test_a_call_that_needs_too_much_memory_is_an_error() -> None:
    small = IsolatedFunction("tests.support.misbehaviour:misbehave", max_bytes=500 << 20)
    try:
        with pytest.raises(MemoryError):
            small("memory", limit_s=10)
        pid = small.pid
        assert small("a", limit_s=10) == "well: a" and small.pid == pid
    finally:
        small.close()


def test_descriptors_above_1023_are_waited_for() -> None:
    """A process with many files open, where select() fails."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    function = IsolatedFunction("tests.support.misbehaviour:misbehave")
    try:
        assert function("a", limit_s=10) == "well: a" and function._from_child > 1023
    finally:
        function.close()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_orphan_survives_its_parent() -> None:
    """Not even a child that hangs in native code, when the parent is killed without cleaning up."""
    script = (
        "import threading, time\n"
        "from bevt_core.untrusted.isolation import IsolatedFunction\n"
        "f = IsolatedFunction('tests.support.misbehaviour:misbehave')\n"
        "f('a', limit_s=20)\n"
        "print(f.pid, flush=True)\n"
        "f('hang', limit_s=60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_training_imports_no_decoder() -> None:
    """A GPU machine that trains from shards may have no decoders, and importing one slows each loader's start."""
    program = (
        "import sys, trainer.pretrain.stage, trainer.finetune.stage; print({'av', 'decord', 'ray'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "set()"
