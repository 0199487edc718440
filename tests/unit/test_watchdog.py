"""A process that hangs reports where and ends; one that moves is left alone."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.recipe_io import load_recipe
from trainer.watchdog import first_step_limit, watchdog

REPO = Path(__file__).resolve().parents[2]
RECIPES = REPO / "trainer" / "recipes"

HANGING = """
import threading
from trainer.watchdog import watchdog

def waits_for_ever():
    threading.Event().wait()

with watchdog(0.5) as alive:
    alive()
    waits_for_ever()
"""

MOVING = """
import time
from trainer.watchdog import watchdog

with watchdog(3) as alive:
    time.sleep(3.2)  # the first step compiles
    for _ in range(7):
        alive()
        time.sleep(0.5)
with watchdog(1) as alive:
    alive()
time.sleep(1.2)
"""

HANGING_FIRST = """
import threading
import trainer.watchdog

def compiles_for_ever():
    threading.Event().wait()

trainer.watchdog.FIRST_STEP_S = 0.5
with trainer.watchdog.watchdog(0.01):
    compiles_for_ever()
"""


def test_a_hanging_process_shows_its_stacks_and_ends():
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and time.monotonic() - begun < 30
    warning, _, stacks = ended.stderr.partition("Timeout (0:00:00.500000)!")
    assert warning.startswith("process 0: no step has ended for 0.25 s.") and "loop.hang_timeout_s" in warning
    assert warning.count("\n") == 1 and "in waits_for_ever" in stacks


def test_a_first_step_that_hangs_ends_as_well():
    ended = subprocess.run([sys.executable, "-c", HANGING_FIRST], cwd=REPO, capture_output=True, text=True, timeout=60)
    warning, _, stacks = ended.stderr.partition("Timeout (0:00:00.500000)!")
    assert ended.returncode == 1 and warning.startswith("process 0: no step has ended for 0.25 s.")
    assert "in compiles_for_ever" in stacks


def test_a_first_step_has_half_an_hour_or_ten_steps_time():
    assert [first_step_limit(timeout_s) for timeout_s in (1, 180, 480)] == [1800, 1800, 4800]


def test_a_process_that_moves_is_left_alone():
    """Its first step, and then the others together, take longer than the limit. Nothing is armed after the block."""
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
