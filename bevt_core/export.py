"""Models for other programs: a folder in the Hugging Face Hub's layout, and a program that needs none of our code."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from bevt_core.classifier import Classifier
from bevt_core.weights import BUILDERS, Model


class HubModel(
    nn.Module, PyTorchModelHubMixin, library_name="bevt", tags=["video-classification"], license="apache-2.0"
):
    """A model that `save_pretrained` and `from_pretrained` know: config.json beside model.safetensors.

    `bevt` is the wrapped model's config, so that a folder alone rebuilds it.
    """

    def __init__(self, bevt: dict[str, Any]) -> None:
        super().__init__()
        sizes = {key: value for key, value in bevt.items() if key != "kind"}
        self.model = BUILDERS[bevt["kind"]](**sizes)

    def forward(self, *args: Any) -> Any:
        return self.model(*args)


def save_hub_folder(folder: Path, model: Model) -> None:
    """Write `model` so that HubModel.from_pretrained reads it back, from the folder or from the Hub."""
    wrapped = HubModel(bevt=model.config)
    wrapped.model.load_state_dict(model.state_dict())
    wrapped.save_pretrained(folder)


def load_hub_folder(folder: Path) -> Model:
    """Read what `save_hub_folder` wrote, bit for bit."""
    return HubModel.from_pretrained(folder).model


def save_program(path: Path, classifier: Classifier, *, frames: int, size_px: int) -> None:
    """Write clip (B, 3, frames, size_px, size_px) -> logits (B, V) as a `torch.export` program with any batch size.

    `torch.export.load(path).module()(clip)` runs it where this package is not installed.
    """
    clip_BCTHW = torch.zeros(2, 3, frames, size_px, size_px)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(classifier.eval(), (clip_BCTHW,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
