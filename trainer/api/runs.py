"""Load a trained model and its description from a run, an exported folder, a weights file, or by name."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import read_record
from bevt_core.weights.model_files import load_weights
from schemas.evaluation import ClassifierCard
from schemas.recipes.loading import Recipe
from trainer.runs.directory import existing_weights, read_run
from trainer.testing.classifier_card import CARD
from trainer.testing.frozen import classifier_of_pretrained


@dataclass(frozen=True)
class LoadedRun:
    """A model in evaluation mode, with the recipe and description stored beside its weights."""

    weights: Path
    device: torch.device
    model: Bevt | Classifier
    recipe: Recipe | None  # the one that trained the model; None without a run's record, as in an exported folder
    card: ClassifierCard | None  # the classes and clips of a classifier; None for other models

    @functools.cached_property
    def encoder(self) -> Classifier:
        """The model as a feature extractor: a classifier itself, or a pretrained encoder with an untrained head.

        Without a video stream, the image stem is converted into a video stem, as at the start of fine-tuning.
        """
        if isinstance(self.model, Classifier):
            return self.model
        return classifier_of_pretrained(self.weights).to(self.device).eval()


def load_run(path: Path | str, device: str | torch.device = "cpu") -> LoadedRun:
    """Load a finished run's directory, a folder that `bevt export` wrote, or a weights file, for inference.

    `path` may also be the name of a model in the package (`bevt model list`), unless a file or folder has that name.
    Raises UserError for damaged files, and if `path` has no weights, describing what it is instead.
    """
    weights, device = existing_weights(path), torch.device(device)
    folder = weights.parent
    return LoadedRun(
        weights=weights,
        device=device,
        model=load_weights(weights).to(device).eval(),
        recipe=read_run(folder)[0] if (folder / RECORD).is_file() else None,
        card=read_record(folder / CARD, ClassifierCard),
    )
