"""Averaged weights of Lightning projects, stored under names without dots."""

import pytest
import torch

from bevt_core.weights.averaged import averaged
from schemas.errors import UserError


def state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {
        "encoder.conv.weight": torch.zeros(2),
        "loss.critic.weight": torch.zeros(3),
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(7),
        "model_ema.encoderconvweight": torch.ones(2),
        "model_ema.losscriticweight": torch.ones(3),
    }
    return {key: tensor for key, tensor in (made | changes).items() if tensor.numel()}


def test_averages_replace_the_weights() -> None:
    found = averaged(state(), "loss")
    assert {key: tensor.tolist() for key, tensor in found.items()} == {
        "encoder.conv.weight": [1, 1],
        "loss.critic.weight": [1, 1, 1],
    }
    plain = {"encoder.conv.weight": torch.zeros(2)}
    assert averaged(plain, "loss") == plain


def test_the_training_module_may_be_incomplete() -> None:
    gone = torch.zeros(0)
    assert averaged(state(**{"model_ema.losscriticweight": gone}), "loss")["loss.critic.weight"].sum() == 0
    assert averaged(state(**{"loss.critic.weight": gone}), "loss").keys() == {"encoder.conv.weight"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_ema.encoderconvweight": torch.zeros(0)}, r"encoder\.conv\.weight: has no average"),
        ({"encoder.conv.weight": torch.zeros(0)}, r"model_ema\.encoderconvweight: the average of no tensor"),
        ({"encoder.conv.weight": torch.zeros(4)}, r"encoder\.conv\.weight: its average has the shape \(2,\)"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, torch.Tensor], message: str) -> None:
    others = {"encoder.norm.weight": torch.zeros(1), "model_ema.encodernormweight": torch.zeros(1)}
    with pytest.raises(UserError, match=message):
        averaged(state(**changes) | others, "loss")
