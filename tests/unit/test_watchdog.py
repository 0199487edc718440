"""A process that hangs reports where and ends; one that moves is left alone."""

import subprocess
import sys
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
    assert "Timeout (0:00:00.500000)!" in ended.stderr and "in waits_for_ever" in ended.stderr


def test_a_process_that_moves_is_left_alone():
    with watchdog(0.3) as alive:
        for _ in range(5):
            time.sleep(0.1)
            alive()
    with watchdog(None) as alive:
        alive()
    time.sleep(0.4)  # nothing is armed any more


def test_checkpoints_that_are_to_be_kept_must_exist():
    with pytest.raises(UserError, match="keep_every 300 must be a multiple of checkpoint_every 200"):
        load_recipe("nano_joint", RECIPES, ["loop.keep_every=300"])
