"""A process that hangs prints its stack and exits; one that makes progress is left alone."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from trainer.distributed.watchdog import first_step_limit, watchdog

REPO = Path(__file__).resolve().parents[4]
RECIPES = REPO / "trainer" / "recipes"

HANGING = """
import threading
from trainer.distributed.watchdog import watchdog

def waits_for_ever():
    threading.Event().wait()

def bystander():
    threading.Event().wait()

threading.Thread(target=bystander, daemon=True).start()
with watchdog(0.5) as alive:
    alive()
    waits_for_ever()
"""

MOVING = """
import time
from trainer.distributed.watchdog import watchdog

with watchdog(2) as alive:
    time.sleep(2.2)  # the first step compiles
    for _ in range(5):
        alive()
        time.sleep(0.5)
with watchdog(0.5) as alive:
    alive()
time.sleep(0.7)
"""

HANGING_FIRST = """
import threading
import trainer.distributed.watchdog

def compiles_for_ever():
    threading.Event().wait()

trainer.distributed.watchdog.FIRST_STEP_S = 0.5
with trainer.distributed.watchdog.watchdog(0.01):
    compiles_for_ever()
"""

HOLDING_THE_LOCK = """
import ctypes
import trainer.distributed.watchdog

trainer.distributed.watchdog.BACKSTOP_S = 0.5
with trainer.distributed.watchdog.watchdog(0.5) as alive:
    alive()
    ctypes.PyDLL(None).sleep(60)  # keeps the interpreter's lock
"""

BLOCKED = """
import ctypes, signal, threading
import trainer.distributed.watchdog

trainer.distributed.watchdog.STOP_S = 0.5
signal.signal(signal.SIGTERM, lambda signum, frame: None)
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
with trainer.distributed.watchdog.watchdog(None) as alive:
    alive()
    print("ready", flush=True)
    %s
"""
IN_PYTHON = "threading.Event().wait()"
IN_NATIVE_CODE = "libc.pthread_mutex_lock(mutex); libc.pthread_mutex_lock(mutex)"  # no signal ends that


def test_a_hanging_process_shows_its_stacks_and_ends():
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and time.monotonic() - begun < 30
    warning, _, stack = ended.stderr.partition("process 0: no step has ended for 0.5 s (loop.hang_timeout_s).")
    assert warning.startswith("process 0: no step has ended for 0.25 s.") and "loop.hang_timeout_s" in warning
    assert warning.count("\n") == 1 and "in waits_for_ever" in stack and "in bystander" not in stack


def test_a_first_step_that_hangs_ends_as_well():
    ended = subprocess.run([sys.executable, "-c", HANGING_FIRST], cwd=REPO, capture_output=True, text=True, timeout=60)
    warning, _, stack = ended.stderr.partition("process 0: no step has ended for 0.5 s (loop.hang_timeout_s).")
    assert ended.returncode == 1 and warning.startswith("process 0: no step has ended for 0.25 s.")
    assert "in compiles_for_ever" in stack


def test_a_thread_that_keeps_the_interpreters_lock_is_ended_without_it():
    command = [sys.executable, "-c", HOLDING_THE_LOCK]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1 and "Timeout (0:00:01)!" in ended.stderr


@pytest.mark.parametrize("blocked_in", [IN_PYTHON, IN_NATIVE_CODE], ids=["Python", "native code"])
def test_sigterm_ends_a_step_that_does_not_end(blocked_in):
    """A signal handler runs in the main thread, which a collective or a loader may block."""
    command = [sys.executable, "-c", BLOCKED % blocked_in]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        message = process.stderr.read()
    assert message.count("\n") == 1 and "SIGTERM: no step has ended for" in message and "--resume" in message


UNHURRIED = """
import os, signal, time
import trainer.distributed.watchdog

trainer.distributed.watchdog.STOP_S, trainer.distributed.watchdog.CHECK_S = 0.3, 0.05
signal.signal(signal.SIGTERM, lambda signum, frame: None)
with trainer.distributed.watchdog.watchdog(None) as alive:
    alive()
    os.kill(os.getpid(), signal.SIGTERM)
    with trainer.distributed.watchdog.unhurried():
        time.sleep(1)
print("written")
"""


def test_a_checkpoint_that_is_written_slowly_is_not_cut_short_by_sigterm():
    ended = subprocess.run([sys.executable, "-c", UNHURRIED], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "written\n", "")


def test_a_first_step_has_half_an_hour_or_ten_steps_time():
    assert [first_step_limit(timeout_s) for timeout_s in (1, 180, 480)] == [1800, 1800, 4800]


def test_a_process_that_moves_is_left_alone():
    """Its first step, and all other steps together, exceed the limit. Nothing is armed after the block."""
    ended = subprocess.run([sys.executable, "-c", MOVING], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "Timeout" not in ended.stderr
    threads = threading.active_count()
    with watchdog(60) as alive, watchdog(None) as none:
        alive()
        none()
    assert threading.active_count() == threads


def test_checkpoints_that_are_to_be_kept_must_exist():
    with pytest.raises(UserError, match="keep_every 300 must be a multiple of checkpoint_every 200"):
        load_recipe("nano_joint", RECIPES, ["loop.keep_every=300"])
