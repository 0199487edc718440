"""The losses of 20 steps are what they were: bit for bit on the machine that they were pinned on."""

import json
from pathlib import Path

import pytest

from tests.golden.loss_curves import FILE, STEPS, loss_curves, machine

RELATIVE = 1e-3  # on another processor or version: rounding grows over 20 steps


def test_twenty_steps_of_every_stage_have_the_pinned_losses(tmp_path: Path) -> None:
    pinned = json.loads(FILE.read_text())
    curves = loss_curves(tmp_path)
    assert {len(curve) for curve in curves.values()} == {STEPS}
    if machine() == pinned["made_on"]:
        assert curves == pinned["curves"]
        return
    for stage, curve in curves.items():
        for here, then in zip(curve, pinned["curves"][stage], strict=True):
            assert here == pytest.approx(then, rel=RELATIVE), stage
