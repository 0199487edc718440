"""A process that hangs reports where and ends; one that moves is left alone."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.errors import UserError
from schemas.recipe_io import load_recipe
from trainer.watchdog import watchdog

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


def test_a_hanging_process_shows_its_stacks_and_ends():
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGING], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and time.monotonic() - begun < 30
    warning, _, stacks = ended.stderr.partition("Timeout (0:00:00.500000)!")
    assert warning.startswith("process 0: no step has ended for 0.25 s.") and "loop.hang_timeout_s" in warning
    assert warning.count("\n") == 1 and "in waits_for_ever" in stacks


def test_a_process_that_moves_is_left_alone(capfd: pytest.CaptureFixture[str]):
    threads = threading.active_count()
    with watchdog(1.0) as alive:
        for _ in range(12):
            time.sleep(0.1)
            alive()
    with watchdog(None) as alive:
        alive()
    assert threading.active_count() == threads
    time.sleep(1.1)  # nothing is armed any more
    assert capfd.readouterr().err == ""


def test_checkpoints_that_are_to_be_kept_must_exist():
    with pytest.raises(UserError, match="keep_every 300 must be a multiple of checkpoint_every 200"):
        load_recipe("nano_joint", RECIPES, ["loop.keep_every=300"])
