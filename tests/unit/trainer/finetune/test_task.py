"""The task of fine-tuning."""

import logging

import pytest
import torch
from torch import nn

from trainer.finetune.task import TERM, UNREADABLE, ClassifyTask


def test_an_unreadable_clip_is_a_warning_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("trainer"), "handlers", [])  # as for somebody who imports bevt
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    task = ClassifyTask(nn.Identity(), num_classes=2, label_smoothing=0.0, mix=None, seed=0)
    batch = {TERM: {"sample_id": ["a", "b"], "error": ["cut short", None], "label": torch.tensor([UNREADABLE, 1])}}
    for _ in range(2):
        assert task.counts(batch) == {TERM: 1}
    expected = ("trainer.finetune.task", logging.WARNING, "a left out of training: cut short")
    assert caplog.record_tuples == [expected]
