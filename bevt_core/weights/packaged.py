"""Pretrained models by name: in the package, or on the Hub. Each is a folder that `bevt export` wrote from a run.

Imports no torch, so that names and descriptions are found fast.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open

from bevt_core.storage.files import read_record, sha256_of, size_of
from bevt_core.weights.hub_models import model_folder, name_of_snapshot
from schemas.errors import UserError
from schemas.evaluation import PretrainedCard
from schemas.recipes.loading import nearest
from schemas.text.hub_name import HubName, hub_name

PRETRAINED = Path(__file__).parent / "pretrained"  # ships with the package
PRETRAINED_CARD = "pretrained.json"
HUB_WEIGHTS, HUB_README = "model.safetensors", "README.md"  # in a folder with Hugging Face's layout


def packaged_names() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(card.parent.name for card in PRETRAINED.glob(f"*/{PRETRAINED_CARD}"))


def find_model(path_or_name: Path | str) -> Path:
    """Return the folder of a model in the package or on the Hub (hf://ORG/NAME), by name; return any other path.

    Raises UserError as `model_folder` does.
    """
    name = hub_name(path_or_name)
    return find_packaged(Path(path_or_name)) if name is None else model_folder(name)


def find_packaged(path_or_name: Path) -> Path:
    """Return the folder of the packaged model of that name; return anything else unchanged. An existing path wins."""
    if path_or_name.exists() or str(path_or_name) not in packaged_names():
        return path_or_name
    return PRETRAINED / path_or_name


def name_of(path: Path) -> str:
    """Return the name of a model in the package or on the Hub for its folder or its weights; else the path as text."""
    folder = path.parent if path.name == HUB_WEIGHTS else path
    return folder.name if folder.parent == PRETRAINED else name_of_snapshot(folder) or str(path)


def expected(path_or_name: str | Path, what: str) -> str:
    """Return the end of an error about missing weights: the nearest packaged name, `what`, and all packaged names.

    A path with the name of a packaged model exists without weights, and hides it, for example the command's own output.
    """
    names = packaged_names()
    if str(path_or_name) in names:
        return f"expected {what}; it hides the model of the package with this name: use another `out`, or rename it"
    packaged = f", or a model of the package: {', '.join(names)}" if names else ""
    return f"{nearest(str(path_or_name), names)}expected {what}{packaged}"


def describe_packaged(name: str) -> dict[str, Any]:
    """Return the facts of a packaged model: parameters, bytes, weights_sha256, its clips, training data and origin.

    Raises UserError for an unknown name.
    """
    if name not in packaged_names():
        raise UserError(
            f"no model {name!r} in the package; {nearest(name, packaged_names())}`bevt model list` lists all"
        )
    return _described(name, PRETRAINED / name)


def describe_on_hub(name: HubName) -> dict[str, Any]:
    """Return the facts of a pretrained model on the Hub, as `describe_packaged`; its name has the commit.

    Raises UserError for a model without them, as a classifier.
    """
    folder = model_folder(name)
    if not (folder / PRETRAINED_CARD).is_file():
        raise UserError(
            f"{name}: has no {PRETRAINED_CARD}, which describes a pretrained encoder; see {folder / HUB_README}"
        )
    return _described(name_of(folder), folder)


def _described(name: str, folder: Path) -> dict[str, Any]:
    card = read_record(folder / PRETRAINED_CARD, PretrainedCard)
    assert card is not None
    weights = folder / HUB_WEIGHTS
    readme = weights.with_name(HUB_README)
    return {
        "name": name,
        "title": card.title,
        "parameters": _parameters(weights),
        "bytes": size_of(weights),
        "frames": card.sampling.frames,
        "interval": card.sampling.interval,
        "crop_px": card.crop_px,
        "trained_on": card.trained_on,
        "weights_sha256": sha256_of(weights),
        "weights": str(weights),
        "card": str(readme) if readme.is_file() else None,
        "origin": card.origin,
    }


def _parameters(weights: Path) -> int:
    """The number of values in a safetensors file, from its header."""
    total = 0
    with safe_open(weights, "numpy") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            count = 1
            for length in file.get_slice(key).get_shape():
                count *= length
            total += count
    return total
