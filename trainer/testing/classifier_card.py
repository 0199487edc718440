"""`classifier.json` beside a classifier's weights: its classes, and how it samples and tests clips."""

from pathlib import Path

from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard
from schemas.recipes import FinetuneRecipe
from trainer.runs.directory import HUB_WEIGHTS, WEIGHTS

CARD = "classifier.json"


def read_card(weights: Path) -> ClassifierCard:
    """Return the description beside the weights of a fine-tuned model. Raises UserError if it is missing."""
    path = weights.parent if weights.name in (WEIGHTS, HUB_WEIGHTS) else weights
    if not weights.is_file():
        raise UserError(f"{path}: {what_is(path)}; expected a finished fine-tuning run, or its weights")
    card = read_record(weights.parent / CARD, ClassifierCard)
    if card is None:
        raise UserError(
            f"{path}: {what_is(path)}, without {CARD}; expected a fine-tuning run: make one with `bevt finetune`, or "
            "import another code's classifier with `bevt import-checkpoint --classes`"
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
