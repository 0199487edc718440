"""Ray's output is kept from the user's terminal; ours arrives."""

import ctypes
import logging
import os
import sys
import threading

import pytest
import ray.data  # noqa: F401 - creates the loggers' consoles

from bevt_core.console.terminal import warn
from pipeline.cluster.output import LOGGERS, LOW_MEMORY, PART_RETRIED, ray_output


class Broken:
    def __del__(self) -> None:
        raise RuntimeError("in the end of an object")


def fail() -> None:
    raise RuntimeError("in a thread")


def speak_as_ray_does() -> None:
    """Through each of Ray's ways to the terminal."""
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
    """The state that the block changes."""
    handlers = [set(logging.getLogger(name).handlers) for name in LOGGERS]
    return [sys.stdout, sys.stderr, threading.excepthook, sys.unraisablehook, handlers]


@pytest.mark.parametrize("stderr_is_descriptor_2", [True, False])
def test_only_our_output_arrives(
    stderr_is_descriptor_2: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if stderr_is_descriptor_2:  # as in a command; pytest's is another
        monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False))  # noqa: SIM115
    before = state()
    with ray_output("hidden"):
        speak_as_ray_does()
        warn("the list is odd")
    sys.stderr.flush()
    assert capfd.readouterr() == ("", "warning: the list is odd\n")
    assert state() == before
    print("afterwards")
    os.write(2, b"loud\n")
    assert capfd.readouterr() == ("afterwards\n", "loud\n")


def test_low_memory_is_a_warning_and_only_one(capfd: pytest.CaptureFixture[str]) -> None:
    with ray_output("hidden"):
        for _ in range(3):
            print(f"(raylet) 1 worker(s) were killed due to the node {LOW_MEMORY}.")
    assert capfd.readouterr() == ("", f"warning: {PART_RETRIED}\n")


def test_shown_output_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with ray_output("shown"):
        print("(raylet) a worker has died")
        os.write(2, b"native\n")
    assert capfd.readouterr() == ("", "(raylet) a worker has died\nnative\n")
