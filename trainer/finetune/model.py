"""The classifier of a fine-tuning recipe, and the share of the learning rate of each of its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from bevt_core.models.build import build_classifier
from bevt_core.models.classifier import Classifier
from schemas.recipes import FinetuneRecipe
from trainer.engine.optim import LrShare, layer_decay_share, swin_layers, timesformer_layers

LAYERS: dict[str, Callable[[Any], Mapping[str, int]]] = {  # of layer decay, by kind of encoder
    "swin": lambda encoder: swin_layers(encoder.depths),
    "timesformer": lambda encoder: timesformer_layers(encoder.depth),
}


def build_from_recipe(recipe: FinetuneRecipe, num_classes: int) -> Classifier:
    """The recipe's encoder under a head of `num_classes`."""
    return build_classifier(
        encoder=recipe.encoder.kind,
        **recipe.encoder.model_dump(exclude={"kind"}),
        num_classes=num_classes,
        dropout=recipe.head_dropout,
    )


def lr_share(recipe: FinetuneRecipe) -> LrShare:
    """The share of the learning rate that each parameter gets, by name."""
    optim, layers = recipe.optim, LAYERS[recipe.encoder.kind](recipe.encoder)
    share = layer_decay_share(layers, optim.layer_decay, optim.backbone_lr_share)

    def share_of(name: str) -> float:
        name = name.removeprefix("model.")  # where the weights are averaged as well
        # the original's final norm is part of its backbone, which has a key of its own where its rate differs
        in_backbone = optim.param_groups == "mmcv" and name.startswith("norm.")
        return optim.backbone_lr_share if in_backbone else share(name)

    return share_of
