"""A trained model with what is known of it, from a run, an exported folder or a file of weights."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.storage.files import read_record
from bevt_core.weights.checkpoints import load_weights
from schemas.evaluation import ClassifierCard
from schemas.recipes.loading import Recipe
from trainer.runs.directory import RECORD, existing_weights, read_run
from trainer.testing.classifier_card import CARD
from trainer.testing.frozen import classifier_of_pretrained


@dataclass(frozen=True)
class LoadedRun:
    """A model in evaluation mode, and what lies beside its weights."""

    weights: Path
    device: torch.device
    model: Bevt | Classifier
    recipe: Recipe | None  # that it was trained with; None without a run's record, as in an exported folder
    card: ClassifierCard | None  # a classifier's classes, and the clips that it reads

    @functools.cached_property
    def encoder(self) -> Classifier:
        """The model as a feature extractor: a classifier itself, else the pretrained encoder below an untrained head.

        Of a model without a video stream, the stem for images becomes the one for clips, as when fine-tuning starts.
        """
        if isinstance(self.model, Classifier):
            return self.model
        return classifier_of_pretrained(self.weights).to(self.device).eval()


def load_run(place: Path | str, device: str | torch.device = "cpu") -> LoadedRun:
    """Load a finished run's directory, a folder that `bevt export` wrote, or a weights file, for inference.

    Raises UserError where there are no weights, saying what is there, and for damaged files.
    """
    weights, device = existing_weights(Path(place)), torch.device(device)
    folder = weights.parent
    return LoadedRun(
        weights=weights,
        device=device,
        model=load_weights(weights).to(device).eval(),
        recipe=read_run(folder)[0] if (folder / RECORD).is_file() else None,
        card=read_record(folder / CARD, ClassifierCard),
    )
