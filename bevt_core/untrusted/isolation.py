"""Calls with time and memory limits in a child process: a file that crashes its decoder fails one call, not the job.

A decoder may loop in native code while it holds the interpreter's lock, so that no thread or signal handler runs; only
killing its process helps. The child serves many calls, and dies with its parent, however the parent ends.

On macOS, which cannot limit memory, the parent kills a child that it finds above its limit (see `bevt doctor`).
"""

import contextlib
import importlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bevt_core import system
from bevt_core.processes import die_with_parent, process_of

_LENGTH = struct.Struct("<Q")
_PIPE_BYTES = 1 << 20  # frames come back in megabytes; Linux's default is 64 kB
_ASKED, _RETURNED, _RAISED = "asked", "returned", "raised"  # kinds of the child's messages, sent as (kind, value)
_CHILD = (
    "import sys; from bevt_core.untrusted.isolation import serve; "
    "serve(sys.argv[1], parent=int(sys.argv[2]), max_bytes=int(sys.argv[3]), preloaded=sys.argv[4:])"
)
DECODER_BYTES = 4 << 30  # address space of a decoder; an 8K video with 4 reference frames takes 2.3 GB
MEMORY_CHECK_S = 0.25  # interval at which the parent checks the child's memory where the system cannot limit it
_child_answers = -1  # in the child: the pipe to the parent


class ChildTimeout(Exception):
    """The call took longer than its limit; the child was killed."""


class ChildCrash(Exception):
    """The child died during the call."""


class IsolatedFunction:
    """`module:function`, called in a dedicated child process, which is started at the first call and after a crash.

    Arguments and results are pickled. The function's exceptions are raised in the parent. It may call `ask`.
    """

    def __init__(self, target: str, max_bytes: int = 0, preloaded: Sequence[str] = ()) -> None:
        """`max_bytes` limits the address space that the function adds to its imports; 0 means no limit.

        Beyond the limit the function raises MemoryError. Where the system cannot limit it, the limit is one of resident
        memory, checked every MEMORY_CHECK_S seconds, and the call raises ChildCrash. `preloaded` are modules to import
        before the limit applies, besides the target's own.
        """
        self.target, self.max_bytes, self.preloaded = target, max_bytes, tuple(preloaded)
        self._most_resident = 0  # bytes; 0 if the child limits itself
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if it is not running."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def __call__(self, *args: Any, limit_s: float, reply: Callable[[Any], Any] | None = None) -> Any:
        """Call the function; `reply`, in the parent, answers its calls of `ask`.

        Raises ChildTimeout after `limit_s` seconds, ChildCrash if the child dies, or the function's own exception.
        """
        if self.pid is None:
            self._start()
        assert self._child is not None
        deadline = time.monotonic() + limit_s
        try:
            _write(self._to_child, args)
            kind, value = self._answer(deadline)
            while kind == _ASKED:
                assert reply is not None, f"{self.target} calls `ask`, but no `reply` was given"
                _write(self._to_child, reply(value))
                kind, value = self._answer(deadline)
        except TimeoutError:
            self.close()
            raise ChildTimeout(f"no answer within {limit_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise ChildCrash(self._exit_description()) from None
        except BaseException:  # `reply` failed, or Ctrl-C: the child is in the middle of a call
            self.close()
            raise
        if kind == _RAISED:
            raise value
        return value

    def close(self) -> None:
        """Kill the child and reap it."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            os.close(self._to_child)
            os.close(self._from_child)

    def _start(self) -> None:
        self.close()
        limits = [str(os.getpid()), str(self.max_bytes)]
        command = [sys.executable, "-P", "-c", _CHILD, self.target, *limits, *self.preloaded]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        child_reads, self._to_child = os.pipe()
        self._from_child, child_writes = os.pipe()
        system.widen_pipe(self._from_child, _PIPE_BYTES)
        self._child = subprocess.Popen(
            command, stdin=child_reads, stdout=child_writes, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(child_reads)
        os.close(child_writes)
        # The child sends "hello" when it is ready, so that its start does not count against the first call's limit.
        try:
            _read(self._from_child, deadline=time.monotonic() + 120)
        except (EOFError, TimeoutError):
            self.close()
            raise RuntimeError(f"the child process for {self.target} did not start: {' '.join(command)}") from None
        if self.max_bytes and not system.LIMITS_ADDRESS_SPACE:
            self._most_resident = self._resident() + self.max_bytes

    def _answer(self, deadline: float) -> Any:
        """The child's next message. Raises as `_read`, and ChildCrash if the child uses too much memory."""
        while self._most_resident:
            until = min(deadline, time.monotonic() + MEMORY_CHECK_S)
            if until == deadline or _is_readable(self._from_child, until):
                break
            if self._resident() > self._most_resident:
                self.close()
                raise ChildCrash(f"killed, because it used more than {self.max_bytes / 1e9:.1f} GB of memory")
        return _read(self._from_child, deadline)

    def _resident(self) -> int:
        """The child's resident memory in bytes; 0 if it has ended."""
        found = None if self._child is None else process_of(self._child.pid)
        return 0 if found is None else found.resident_bytes

    def _exit_description(self) -> str:
        """Reap the dead child and return how it ended."""
        assert self._child is not None
        code = self._child.wait()
        self.close()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"


def ask(question: Any) -> Any:
    """For use in the child, inside a call: return the parent's `reply(question)`."""
    _write(_child_answers, (_ASKED, question))
    return _read(0, deadline=None)


def serve(target: str, parent: int, max_bytes: int, preloaded: Sequence[str]) -> None:
    """The child's loop. File descriptor 1 is reserved for answers; output of libraries goes to stderr."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    global _child_answers
    _child_answers = os.dup(1)
    os.dup2(2, 1)
    for library in preloaded:
        importlib.import_module(library)
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    if max_bytes and system.LIMITS_ADDRESS_SPACE:
        system.limit_address_space(max_bytes)
    _write(_child_answers, "hello")
    while True:
        try:
            args = _read(0, deadline=None)
        except EOFError:
            return
        try:
            answer: tuple[str, Any] = (_RETURNED, function(*args))
        except Exception as error:  # noqa: BLE001 - carried to the parent and raised there
            answer = (_RAISED, error)
        _write(_child_answers, answer)


def _write(descriptor: int, value: Any) -> None:
    data = pickle.dumps(value, protocol=5)  # arrays are copied once
    for piece in (_LENGTH.pack(len(data)), data):
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


def _read(descriptor: int, deadline: float | None) -> Any:
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size, deadline))
    return pickle.loads(_read_exactly(descriptor, length, deadline))


def _read_exactly(descriptor: int, length: int, deadline: float | None) -> bytearray:
    """Raises EOFError at the end of the pipe, TimeoutError after the deadline (monotonic seconds)."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if not _is_readable(descriptor, deadline):
            raise TimeoutError
        count = os.readv(descriptor, [view])
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _is_readable(descriptor: int, deadline: float | None) -> bool:
    """Wait until data or the end of the pipe can be read; False after the deadline (monotonic seconds)."""
    ready = select.poll()  # select() does not support descriptors above 1023
    ready.register(descriptor, select.POLLIN)
    return bool(ready.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))
