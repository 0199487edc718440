"""Ray's own words stay away from the user's terminal; ours arrive."""

import ctypes
import logging
import os
import sys
import threading

import pytest
import ray.data  # noqa: F401 - makes the loggers' consoles

from bevt_core.console.terminal import warn
from pipeline.cluster.output import LOGGERS, LOW_MEMORY, TRIED_AGAIN, rays_output


class Broken:
    def __del__(self) -> None:
        raise RuntimeError("in the end of an object")


def fail() -> None:
    raise RuntimeError("in a thread")


def speak_as_ray_does() -> None:
    """By each of its ways to the terminal."""
    print("(raylet) a worker has died")
    os.write(1, b"native stdout\n")
    os.write(2, b"native stderr\n")
    ctypes.CDLL(None).puts(b"from C")
    ctypes.CDLL(None).fflush(None)
    for name in ("ray", "ray.data", "ray.data._internal.execution", "ray._private.worker"):
        logging.getLogger(name).error("Exception occurred in Ray Data")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Broken()


def state() -> list[object]:
    """What is changed in the block."""
    handlers = [set(logging.getLogger(name).handlers) for name in LOGGERS]
    return [sys.stdout, sys.stderr, threading.excepthook, sys.unraisablehook, handlers]


@pytest.mark.parametrize("stderr_is_descriptor_2", [True, False])
def test_only_our_words_arrive(
    stderr_is_descriptor_2: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if stderr_is_descriptor_2:  # as in a command; pytest's is another
        monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False))  # noqa: SIM115
    before = state()
    with rays_output("hidden"):
        speak_as_ray_does()
        warn("the list is odd")
    sys.stderr.flush()
    assert capfd.readouterr() == ("", "warning: the list is odd\n")
    assert state() == before
    print("afterwards")
    os.write(2, b"loud\n")
    assert capfd.readouterr() == ("afterwards\n", "loud\n")


def test_low_memory_is_a_warning_and_only_one(capfd: pytest.CaptureFixture[str]) -> None:
    with rays_output("hidden"):
        for _ in range(3):
            print(f"(raylet) 1 worker(s) were killed due to the node {LOW_MEMORY}.")
    assert capfd.readouterr() == ("", f"warning: {TRIED_AGAIN}\n")


def test_where_it_is_shown_it_leaves_stdout_to_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    with rays_output("shown"):
        print("(raylet) a worker has died")
        os.write(2, b"native\n")
    assert capfd.readouterr() == ("", "(raylet) a worker has died\nnative\n")
