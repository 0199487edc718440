"""Other writers: processes that hold locks, as tests tell them to. Light to import, for they are started often."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from pathlib import Path
from types import TracebackType

from bevt_core.storage.one_writer import hold, reading
from bevt_core.storage.staging import staged_file, staged_folder
from schemas.errors import UserError

END_S = 60.0


class Holder:
    """`role(place, command)` of this module in a process of its own, which has said that it is ready."""

    def __init__(self, role: str, place: Path, command: str, wrapper: Sequence[str] = ()) -> None:
        code = "import sys; from tests.support import processes; processes.play(*sys.argv[1:])"
        call = [*wrapper, sys.executable, "-c", code, role, str(place), command]
        self._process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        assert self.say() == "ready"

    def say(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def wait(self) -> None:
        self._process.wait(END_S)

    def end(self) -> None:
        """Let it end in its own time."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.wait()

    def __enter__(self) -> "Holder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def elsewhere(block: AbstractContextManager[None]) -> Iterator[None]:
    """Be in a block such as `hold(place, command)` as another process would be, for what this thread does."""
    there = Context()
    there.run(block.__enter__)
    try:
        yield
    finally:
        there.run(block.__exit__, None, None, None)


def refusal(block: AbstractContextManager[None]) -> str:
    """What another process is answered that would enter the block; empty where it may."""
    try:
        with elsewhere(block):
            return ""
    except UserError as error:
        return str(error)


def play(role: str, place: str, command: str) -> None:
    """In the process: do what the role says, until stdin ends."""
    globals()[f"_{role}"](Path(place), command)


def _say(text: object) -> None:
    print(text, flush=True)


def _hold(place: Path, command: str) -> None:
    with hold(place, command):
        _say("ready")
        sys.stdin.read()


def _hold_with_children(place: Path, command: str) -> None:
    with hold(place, command):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=[END_S])
        worker.start()
        program = subprocess.Popen(["sleep", str(END_S)], close_fds=False, stdout=subprocess.DEVNULL)
        for line in ("ready", worker.pid, program.pid):
            _say(line)
        sys.stdin.read()


def _stage(place: Path, name: str) -> None:
    """Be at writing a file and a folder."""
    with staged_file(place / f"{name}.json") as file, staged_folder(place / name) as folder:
        file.write(b"{}")
        (folder / "whole").touch()
        _say("ready")
        sys.stdin.read()


def _try_to_hold(place: Path, command: str) -> None:
    _say("ready")
    try:
        with hold(place, command):
            _say("held")
    except UserError as error:
        _say(f"refused: {error}")


def _read(place: Path, command: str) -> None:
    with reading([place], command):
        _say("ready")
        sys.stdin.read()


def _try_to_read(place: Path, command: str) -> None:
    _say("ready")
    try:
        with reading([place], command):
            _say("read")
    except UserError as error:
        _say(error)


def _race(place: Path, inside: str) -> None:
    """Take and leave the lock for 0.2 s; the folder `inside` is there only while somebody has it."""
    _say("ready")
    deadline, held, tries, refused = time.monotonic() + 0.2, 0, 0, ""
    while time.monotonic() < deadline or (not held and tries < 3000):  # on a busy machine others may be faster
        tries += 1
        if time.monotonic() > deadline:
            time.sleep(0.01)
        try:
            with hold(place, "race"):
                os.mkdir(inside)  # noqa: PTH102 - raises where another is inside
                os.rmdir(inside)  # noqa: PTH106
                held += 1
        except UserError as error:
            refused = str(error)
    _say("alone" if held else f"never had it: {refused}")
