"""PeCo's perceptual loss: the distance of two pictures in a frozen network's features (Dong et al. 2021, section 3.3).

Shapes: N pictures, H W pixels, C channels. Pictures are floats in [0, 1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevt_core.weights.checkpoint_files import read_state_dict
from schemas.errors import UserError
from schemas.recipes.loading import nearest

HEADS = ("head", "fc", "classifier", "fc_norm")  # a stored classifier's head, which the features do not need


class Perceptual(nn.Module):
    """Mean squared difference of a frozen network's features, summed over layers, for pictures in [0, 1]."""

    def __init__(self, name: str, layers: Sequence[int], weights: str | None) -> None:
        """`name` is timm's, with its tag; `layers` are indices of its blocks or stages, from 0.

        `weights` is a file (.safetensors, or .pth, read without executing code) with timm's keys; None downloads them
        from timm's hub. Raises UserError for an unknown name or layer, and for weights that are unavailable or do not
        fit.
        """
        super().__init__()
        if not timm.is_model(name) or ":" in name:  # a name with a colon is an address; its config names the model
            known = timm.list_models(pretrained=False)
            raise UserError(
                f"perceptual.name {name!r}: no such model in timm; {nearest(name, known)}see timm.list_models()"
            )
        if weights is None:
            self.network = _from_hub(name)
        else:
            self.network = timm.create_model(name, pretrained=False, num_classes=0)
            _load(self.network, Path(weights))
        if not hasattr(self.network, "forward_intermediates"):
            raise UserError(f"perceptual.name {name!r} does not return its layers' features; use a ViT or a ResNet")
        self.layers = list(layers)
        config: dict[str, Any] = cast(Any, self.network).pretrained_cfg
        self.input_hw: tuple[int, int] | None = tuple(config["input_size"][1:]) if config["fixed_input_size"] else None
        self.mean_C11: Tensor
        self.std_C11: Tensor
        self.register_buffer("mean_C11", torch.tensor(config["mean"]).reshape(-1, 1, 1))
        self.register_buffer("std_C11", torch.tensor(config["std"]).reshape(-1, 1, 1))
        self.requires_grad_(False).eval()
        self._check_layers(name)

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        """The distance, a scalar, averaged over the pictures; both receive a gradient."""
        pairs = zip(self._features(a_NCHW), self._features(b_NCHW), strict=True)
        return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()

    def _features(self, unit_NCHW: Tensor) -> list[Tensor]:
        if self.input_hw is not None and tuple(unit_NCHW.shape[2:]) != self.input_hw:
            unit_NCHW = F.interpolate(unit_NCHW, self.input_hw, mode="bilinear", antialias=True)
        normal_NCHW = (unit_NCHW - self.mean_C11) / self.std_C11
        network = cast(Any, self.network)  # a timm model
        features: list[Tensor] = network.forward_intermediates(
            normal_NCHW, indices=self.layers, intermediates_only=True
        )
        return features

    def _check_layers(self, name: str) -> None:
        with torch.no_grad():
            try:
                self._features(torch.zeros(1, 3, 64, 64))
            except (AssertionError, IndexError, ValueError) as error:
                raise UserError(f"perceptual.layers {self.layers} of {name!r}: {error}") from None


def _from_hub(name: str) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
        return network
    except (OSError, RuntimeError) as error:  # raised by the hub's client: no network, no such file
        raise UserError(
            f"perceptual.name {name!r}: downloading its weights from timm's hub failed ({str(error).splitlines()[0]}). "
            "Download them elsewhere and set architecture.perceptual.weights to the file, or train without this loss: "
            "`architecture.perceptual=null`"
        ) from None


def _load(network: nn.Module, path: Path) -> None:
    """Load the weights strictly, except for the classifier's head."""
    if not path.is_file():
        raise UserError(f"perceptual.weights {path}: no such file; download it from the model's page on timm's hub")
    try:
        state = read_state_dict(path)
    except UserError as error:
        raise UserError(f"perceptual.weights {error}") from None
    body = {key: value for key, value in state.items() if key.split(".")[0] not in HEADS}
    try:
        network.load_state_dict(body)
    except RuntimeError as error:
        raise UserError(f"perceptual.weights {path} do not fit: {error}") from None
