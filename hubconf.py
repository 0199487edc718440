"""Models for `torch.hub.load`: encoders that turn normalised clips (B, 3, T, H, W) into features (B, D).

`torch.hub` reads this file at the root of a checkout, such as `torch.hub.load("path/to/bevt", "bevt_nano",
source="local")`. Like all of bevt it takes weights from safetensors only.
"""

from torch import nn

dependencies = ["torch", "numpy", "pyarrow", "pydantic", "safetensors", "yaml"]


def bevt_nano() -> nn.Module:
    """Return the encoder of the small model in the package, which reads 8 frames of 64 x 64 pixels."""
    return encoder("bevt-nano")


def encoder(name: str) -> nn.Module:
    """Return the encoder of a model by name, in evaluation mode.

    `name` is a model of the package, hf://ORG/NAME@REVISION, an exported folder, a run's directory or a weights file.
    """
    from bevt_core import load_run

    model = load_run(name).encoder
    model.fc = nn.Identity()  # type: ignore[assignment]  # features instead of classes
    return model
