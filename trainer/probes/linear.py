"""Linear probe of frozen features: logistic regression by L-BFGS, like CLIP's, without a learning rate to tune.

Legend: N samples, C channels, V classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bevt_core.rng import rng_for
from schemas.errors import UserError

WEIGHT_DECAYS = tuple(10.0**power for power in range(-6, 2))  # tried on a part of the training set
HELD_OUT = 0.2  # share of each class's training samples, on which the decay is chosen
LBFGS_STEPS = 200


def linear_predict(
    train_NC: Tensor,
    train_labels_N: Tensor,
    test_NC: Tensor,
    num_classes: int,
    seed: int = 0,
    before_fit: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return a class (int64) for every test feature, from a layer fitted to the standardised training features.

    The weight decay is chosen on a part of the training features that `seed` draws. All tensors are on one device.
    `before_fit` is called before every fit. Raises UserError if no class has two training features.
    """
    deviation_C, mean_C = torch.std_mean(train_NC, dim=0, correction=0)
    train_NC, test_NC = ((x_NC - mean_C) / deviation_C.clamp(min=1e-6) for x_NC in (train_NC, test_NC))
    held_N = held_out_mask(train_labels_N.cpu(), seed).to(train_NC.device)

    def accuracy(weight_decay: float) -> float:
        before_fit()
        classify = fit_linear(train_NC[~held_N], train_labels_N[~held_N], num_classes, weight_decay)
        return float((classify(train_NC[held_N]).argmax(dim=1) == train_labels_N[held_N]).double().mean())

    best = max(WEIGHT_DECAYS, key=lambda decay: (accuracy(decay), decay))  # if equal, the stronger one
    before_fit()
    return fit_linear(train_NC, train_labels_N, num_classes, best)(test_NC).argmax(dim=1)


def fit_linear(
    features_NC: Tensor, labels_N: Tensor, num_classes: int, weight_decay: float
) -> Callable[[Tensor], Tensor]:
    """Fit logistic regression; return a function: features (N, C) -> logits (N, V)."""
    weight_VC = torch.zeros(num_classes, features_NC.shape[1], device=features_NC.device, requires_grad=True)
    bias_V = torch.zeros(num_classes, device=features_NC.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_VC, bias_V], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NV = torch.nn.functional.linear(features_NC, weight_VC, bias_V)
        value = torch.nn.functional.cross_entropy(logits_NV, labels_N) + weight_decay / 2 * weight_VC.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight_VC, bias_V = weight_VC.detach(), bias_V.detach()
    return lambda x_NC: torch.nn.functional.linear(x_NC, weight_VC, bias_V)


def held_out_mask(labels_N: Tensor, seed: int) -> Tensor:
    """Mark a share HELD_OUT of each class with two or more samples: bool (N). Raises UserError if no class has two."""
    held_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique().tolist():
        members = torch.nonzero(labels_N == label).flatten()
        if len(members) > 1:
            count = min(len(members) - 1, max(1, round(len(members) * HELD_OUT)))
            held_N[members[rng_for("probe", seed, label).permutation(len(members))[:count]]] = True
    if not held_N.any():
        raise UserError("no class has two videos to train on; a linear probe needs them to choose its weight decay")
    return held_N
