"""The classifier of a fine-tuning recipe, and the learning-rate share of each parameter."""

from collections.abc import Callable, Mapping
from typing import Any

from bevt_core.models.build import build_classifier
from bevt_core.models.classifier import Classifier
from schemas.recipes import FinetuneRecipe
from trainer.engine.optim import LrShare, layer_decay_share, swin_layers, timesformer_layers

LAYERS: dict[str, Callable[[Any], Mapping[str, int]]] = {  # layers for layer decay, by kind of encoder
    "swin": lambda encoder: swin_layers(encoder.depths),
    "timesformer": lambda encoder: timesformer_layers(encoder.depth),
}


def build_from_recipe(recipe: FinetuneRecipe, num_classes: int) -> Classifier:
    """Build the recipe's encoder with a head for `num_classes` classes."""
    return build_classifier(
        encoder=recipe.encoder.kind,
        **recipe.encoder.model_dump(exclude={"kind"}),
        num_classes=num_classes,
        dropout=recipe.head_dropout,
    )


def lr_share(recipe: FinetuneRecipe) -> LrShare:
    """Return a function from a parameter's name to its share of the learning rate."""
    optim, layers = recipe.optim, LAYERS[recipe.encoder.kind](recipe.encoder)
    share = layer_decay_share(layers, optim.layer_decay, optim.backbone_lr_share)

    def share_of(name: str) -> float:
        name = name.removeprefix("model.")  # the prefix of a model with averaged weights
        # the original counts the final norm as backbone in recipes whose backbone has its own learning rate
        in_backbone = optim.param_groups == "mmcv" and name.startswith("norm.")
        return optim.backbone_lr_share if in_backbone else share(name)

    return share_of
