"""`classifier.json` beside a classifier's weights: its classes, and how it samples and tests clips."""

from pathlib import Path

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record
from bevt_core.weights.packaged import HUB_WEIGHTS, name_of
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard
from schemas.recipes import FinetuneRecipe
from trainer.runs.directory import WEIGHTS

CARD = "classifier.json"
PRETRAINED = ("a pretraining run", "a pretrained model")  # by `what_is`


def read_card(weights: Path) -> ClassifierCard:
    """Return the description beside the weights of a fine-tuned model. Raises UserError if it is missing."""
    path = weights.parent if weights.name in (WEIGHTS, HUB_WEIGHTS) else weights
    name, what = name_of(path), what_is(path)
    if not weights.is_file():
        raise UserError(f"{name}: {what}; expected a finished fine-tuning run, or its weights")
    card = read_record(weights.parent / CARD, ClassifierCard)
    if card is None and what in PRETRAINED:
        raise UserError(
            f"{name}: {what}, which has no classes; expected a fine-tuning run, which "
            f"`bevt finetune folder --root VIDEOS --init {name}` makes"
        )
    if card is None:
        raise UserError(
            f"{name}: {what}, without {CARD}; expected a fine-tuning run: make one with `bevt finetune`, or import "
            "another code's classifier with `bevt import-checkpoint --classes`"
        )
    return card


def card_of(recipe: FinetuneRecipe, classes: tuple[str, ...]) -> ClassifierCard:
    """Return the description of a classifier of `classes` that `recipe` trains."""
    return ClassifierCard(
        title=recipe.title,
        classes=classes,
        sampling=recipe.sampling,
        crop_px=recipe.augment.crop_px,
        views=recipe.views,
    )
