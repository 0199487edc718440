"""A process that forks loader workers. It imports their modules once, and has no threads whose locks a fork would copy.

It serves one training process over a socket, and ends with it, as do its workers. They create nothing that
has a name (no semaphore, no file, no socket in TMPDIR), so a kill leaves nothing behind. This module does not import
torch, so that `serve`, in a new Python process, binds its life to the training process at once.
"""

import importlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bevt_core.processes import die_with_parent
from schemas.errors import StorageError
from trainer.distributed.children import ending_of

START_TIMEOUT_S = 300.0  # imports from a slow network disk
REPLY_TIMEOUT_S = 20.0
PRELOADED = ("trainer.data.batches", "trainer.data.clip_dataset")
FORK, END = b"F", b"E"
STOPPING = {signal.SIGINT, signal.SIGTERM}  # blocked: training first ends its step, then its loaders

_REQUEST = struct.Struct("<cq")
_REPLY = struct.Struct("<q")
_SERVER = "import sys; from trainer.data.loader_server import serve; serve(*map(int, sys.argv[1:]))"


def start_python(program: str, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a Python process that inherits `descriptors`, with STOPPING blocked.

    The program's arguments are the numbers of the descriptors and the id of this process. Raises StorageError.
    """
    command = [sys.executable, "-P", "-c", program, *map(str, descriptors), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # inherited: the process starts with them blocked
    try:
        return subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise StorageError(f"the loader's processes could not be started: {error}; set loop.num_workers=0") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class LoaderServer:
    """The training process's handle of the server."""

    def __init__(self) -> None:
        """Start the server. Raises StorageError if it cannot be started."""
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()  # held from a request to its reply
        try:
            with theirs:
                self._process = start_python(_SERVER, [theirs.fileno()])
        except StorageError:
            self._control.close()
            raise
        try:
            self._reply(START_TIMEOUT_S)
        except (EOFError, TimeoutError):
            self.close()
            status = ending_of(self._process.returncode)
            raise StorageError(
                f"the loader's processes could not be started: the first one {status}; set loop.num_workers=0, or give "
                "the job more memory"
            ) from None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start_worker(self, dataset: int, batches: socket.socket) -> int:
        """Fork a worker for the pickled dataset in the file `dataset`, replying on `batches`; return its process id.

        Raises EOFError if the server has ended, TimeoutError if it is stopped.
        """
        with self._lock:
            try:
                socket.send_fds(self._control, [_REQUEST.pack(FORK, 0)], [dataset, batches.fileno()])
            except OSError:
                raise EOFError from None
            return self._reply(REPLY_TIMEOUT_S)

    def end(self, worker: int) -> int | None:
        """Kill a worker if it is running; return its exit status, or negative signal, or None if the server is lost."""
        with self._lock:
            try:
                self._control.sendall(_REQUEST.pack(END, worker))
                return self._reply(REPLY_TIMEOUT_S)
            except (EOFError, OSError):  # the server has ended with its workers, is stopped, or is too slow
                self.close()
                return None

    def close(self) -> None:
        """Kill the server and thereby all workers."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _reply(self, timeout_s: float) -> int:
        self._control.settimeout(timeout_s)
        try:
            data = self._control.recv(_REPLY.size, socket.MSG_WAITALL)
        except ConnectionError:
            raise EOFError from None
        if len(data) < _REPLY.size:
            raise EOFError
        return int(_REPLY.unpack(data)[0])


def serve(descriptor: int, parent: int) -> None:
    """Run the server's loop until the training process ends."""
    die_with_parent(parent)
    control = socket.socket(fileno=descriptor)
    work: Callable[[int, socket.socket], None] = importlib.import_module("trainer.data.loader").work
    for module in PRELOADED:
        importlib.import_module(module)
    control.sendall(_REPLY.pack(0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 2)
        if not request:
            os._exit(0)
        kind, worker = _REQUEST.unpack(request)
        if kind == FORK:
            dataset, batches = descriptors
            bound, binding = os.pipe()
            server, worker = os.getpid(), os.fork()
            if not worker:
                try:
                    control.close()
                    die_with_parent(server)
                    os.close(binding)
                    work(dataset, socket.socket(fileno=batches))
                finally:
                    os._exit(1)
            os.close(binding)
            os.read(bound, 1)  # wait until the worker is set to end with the server, as it may be stopped any time
            os.close(bound)
            os.close(dataset)
            os.close(batches)
            control.sendall(_REPLY.pack(worker))
        else:
            os.kill(worker, signal.SIGKILL)  # it has not been reaped, so no other process has its id
            _, status = os.waitpid(worker, 0)
            control.sendall(_REPLY.pack(os.waitstatus_to_exitcode(status)))
