"""Open the frozen encoder of a classifier or of a pretrained model, with the views to test it on."""

from pathlib import Path

from bevt_core.models.build import backbone_sizes, build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.weights.model_files import load_weights
from bevt_core.weights.surgery import initialise
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard
from schemas.recipes import FinetuneRecipe
from trainer.clips.multi_view import ViewPlan
from trainer.runs.directory import existing_weights
from trainer.setup.start_from import classifier_state
from trainer.testing.classifier_card import CARD, card_of, read_card
from trainer.testing.evaluate import chosen_views
from trainer.testing.pretrained_card import card_of_pretrained


def open_frozen(
    checkpoint: Path | str, recipe: FinetuneRecipe | None, clips: int | None, crops: int | None
) -> tuple[Classifier, ViewPlan]:
    """Return the encoder of a run, of weights or of a packaged model, as a classifier, and its views.

    A classifier keeps its own views. A pretrained encoder has an untrained head and gets the views of `recipe`, by
    default one centre crop of one clip like those of its pretraining. Raises UserError if the views are unknown, or the
    encoder does not support them.
    """
    card = _card(checkpoint, recipe)
    model = classifier_of_pretrained(existing_weights(checkpoint))
    return model, _plan(checkpoint, card, model, clips, crops)


def views_of(
    checkpoint: Path | str, encoder: Classifier, recipe: FinetuneRecipe | None, clips: int | None, crops: int | None
) -> ViewPlan:
    """Return the views that `open_frozen` gives this encoder of `checkpoint`. Raises UserError like `open_frozen`."""
    return _plan(checkpoint, _card(checkpoint, recipe), encoder, clips, crops)


def _card(checkpoint: Path | str, recipe: FinetuneRecipe | None) -> ClassifierCard:
    weights = existing_weights(checkpoint)
    if (weights.parent / CARD).is_file():
        return read_card(weights)
    return card_of_pretrained(weights) if recipe is None else card_of(recipe, ("none",))


def _plan(
    checkpoint: Path | str, card: ClassifierCard, encoder: Classifier, clips: int | None, crops: int | None
) -> ViewPlan:
    tubelet = encoder.config["patch"][0]
    if card.sampling.frames % tubelet:
        raise UserError(
            f"{checkpoint}: its encoder reads {tubelet} frames at a time, and clips of {card.sampling.frames} are not "
            "a multiple of that; set sampling.frames"
        )
    return ViewPlan(card.sampling, card.crop_px, chosen_views(card, clips, crops), "normal", seed=0)


def classifier_of_pretrained(path: Path) -> Classifier:
    """Return the video stem, encoder and norm in the weights `path`, with the window size of their training."""
    source = load_weights(path)
    if isinstance(source, Classifier):
        return source
    model = build_classifier(num_classes=1, encoder=source.config["encoder"], **backbone_sizes(source.config))
    initialise(model, classifier_state(source, model.config))
    return model
