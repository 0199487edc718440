"""Models on disk: safetensors with the model's config in the metadata, and imports of other projects' checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize

from bevt_core.models.bevt import Bevt
from bevt_core.models.build import build_bevt, build_classifier
from bevt_core.models.classifier import Classifier
from bevt_core.models.windows import Size3
from bevt_core.storage.files import read_json_file, write_atomic
from bevt_core.weights.checkpoint_files import UNREADABLE, first_line, head_of, is_safetensors, read_state_dict
from bevt_core.weights.kinds import OURS, advice, check_kind
from bevt_core.weights.other_projects import (
    bevt_from_image_swin,
    bevt_from_official,
    classifier_from_torchvision,
    classifier_from_video_swin,
)
from bevt_core.weights.surgery import StateDict, Surgery, initialise, swin_sizes, tensor_of
from schemas.errors import UserError
from schemas.text.json_text import json_text, parse_json

Model = Bevt | Classifier

MAX_BLOCKS, MAX_STAGES = 1000, 8  # limits for an encoder
CONFIG_KEY = "bevt_config"  # in the safetensors metadata: the model's config as JSON
BUILDERS: dict[str, Callable[..., Model]] = {"bevt": build_bevt, "classifier": build_classifier}


def save_weights(path: Path, model: Model) -> None:
    """Write the weights as safetensors with the model's config in the metadata, atomically."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    save_state(path, state, model.config)


def save_state(path: Path, state: StateDict, config: Mapping[str, Any]) -> None:
    """Write weights like `save_weights`, from a state dict and a config. Tensors must be contiguous and on the CPU."""
    write_atomic(path, serialize(state, metadata={CONFIG_KEY: json_text(config)}))


def load_weights(path: Path) -> Model:
    """Load a model written by `save_weights`, bit for bit, or the model.safetensors of an exported Hugging Face folder.

    Raises UserError for another kind of file, naming its kind, and for a damaged one.
    """
    state = read_state_dict(path)
    if not is_safetensors(head_of(path)):
        raise UserError(f"{path}: {advice(path, state)}")
    with _errors_name(path):
        metadata = _metadata(path)
        if CONFIG_KEY in metadata:
            return _rebuild(path, parse_json(metadata[CONFIG_KEY], dict, path), state)
        if (hub := path.with_name("config.json")).is_file() and "bevt" in (described := read_json_file(hub, dict)):
            state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
            return _rebuild(path, described["bevt"], state)
        raise UserError(f"{path}: no model config in its metadata: {advice(path, state)}")


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn errors caused by the content of `path` into a UserError that names the file."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from None
    except UNREADABLE as error:
        raise UserError(
            f"{path}: inconsistent content ({first_line(error)}); the file is cut, damaged or of another version"
        ) from None


def _rebuild(path: Path, config: dict[str, Any], state: Mapping[str, torch.Tensor]) -> Model:
    sizes = {key: value for key, value in config.items() if key != "kind"}
    return _model_with_weights(path, BUILDERS[config["kind"]], sizes, state)


def _model_with_weights(
    path: Path, build: Callable[..., Model], sizes: Mapping[str, Any], state: Mapping[str, Any]
) -> Model:
    """Build the model of `sizes` with float32 copies of the weights in `state`. Raises UserError if they do not fit."""
    model = _meta_model(path, build, sizes, state)
    missing = [key for key in model.state_dict() if key not in state]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; the file is incomplete")
    model.load_state_dict({key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}, assign=True)
    return model


def _meta_model(path: Path, build: Callable[..., Model], sizes: Mapping[str, Any], state: Mapping[str, Any]) -> Model:
    """Build the model of `sizes` on the meta device. Raises UserError if a tensor of `state` does not fit it.

    Checking before allocating limits the memory that a damaged file can claim to its own size.
    """
    depths = [sizes.get("depth", 0), *sizes.get("depths", ())]  # a TimeSformer has `depth`, a Swin `depths`
    if sum(depths) > len(state):
        raise UserError(f"{path}: its config has {sum(depths)} blocks, but the file has only {len(state)} tensors")
    if sum(depths) > MAX_BLOCKS or len(depths) > MAX_STAGES + 1:
        raise UserError(
            f"{path}: its config has {len(depths) - 1} stages and {sum(depths)} blocks, expected at most "
            f"{MAX_STAGES} and {MAX_BLOCKS}"
        )
    with torch.device("meta"):
        model = build(**sizes)
    own = model.state_dict()
    for key, tensor in state.items():
        if key not in own:
            raise UserError(f"{path}: {key} does not exist in the model of its sizes; it is of another architecture")
        if own[key].shape != tensor.shape or not tensor.is_floating_point():
            raise UserError(
                f"{path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, but the other tensors require floats of "
                f"{tuple(own[key].shape)}; the file is damaged, or of another architecture"
            )
    return model


class Imported(NamedTuple):
    """A model imported from another project's checkpoint, with the keys that did not match."""

    model: Model
    dropped: list[str]  # keys of the checkpoint that the model does not use
    fresh: list[str]  # parameters of the model that the checkpoint does not have


def import_official(path: Path) -> Imported:
    """Read a pretraining checkpoint of the original code (github.com/xyzforever/BEVT); sizes come from its tensors.

    Raises UserError for another kind of checkpoint.
    """
    with _errors_name(path):
        state, dropped = bevt_from_official(_read_foreign(path, "official"))
        vocab_size, decoder_dim = tensor_of(state, "lm_head.weight", 2).shape
        sizes = swin_sizes(state, stem="stems.video.", encoder="encoders.shared.")
        sizes |= {"vocab_size": vocab_size, "decoder_dim": decoder_dim}
        return Imported(_model_with_weights(path, build_bevt, sizes, state), dropped, fresh=[])


def import_torchvision(path: Path) -> Imported:
    """Read the weights of torchvision's `swin3d_t`, `swin3d_s` or `swin3d_b` as a classifier."""
    with _errors_name(path):
        return _classifier(path, classifier_from_torchvision(_read_foreign(path, "torchvision")))


def import_video_swin(path: Path) -> Imported:
    """Read a classifier of Video Swin's code or of mmaction2; equivalent to theirs for crops of 224 pixels or more.

    For smaller crops the last stage's grid is smaller than a window, and their code uses the biases of other positions.
    """
    with _errors_name(path):
        return _classifier(path, classifier_from_video_swin(_read_foreign(path, "video-swin")))


def import_image_swin(path: Path, *, vocab_size: int, tubelet: int = 2, window: Size3 = (8, 7, 7)) -> Imported:
    """Read an image Swin (timm or original keys) as a joint model; decoders, mask token and LM head are new."""
    with _errors_name(path):
        source = _read_foreign(path, "image-swin")
        state, dropped = bevt_from_image_swin(source, tubelet=tubelet, window=window)
        sizes = swin_sizes(state, stem="stems.video.", encoder="encoders.shared.")
        sizes |= {"window": window, "vocab_size": vocab_size}
        _meta_model(path, build_bevt, sizes, state)
        model = build_bevt(**sizes)
        return Imported(model, dropped, initialise(model, state))


def _classifier(path: Path, surgery: Surgery) -> Imported:
    sizes = swin_sizes(surgery.state, stem="stem.", encoder="encoder.")
    sizes["num_classes"] = len(tensor_of(surgery.state, "fc.weight", 2))
    return Imported(_model_with_weights(path, build_classifier, sizes, surgery.state), surgery.dropped, fresh=[])


def _read_foreign(path: Path, kind: str) -> StateDict:
    """Return the tensors of another code's checkpoint of `kind`. Raises UserError for other kinds and for our own."""
    state = read_state_dict(path)
    if is_safetensors(head_of(path)) and CONFIG_KEY in _metadata(path):
        raise UserError(f"{path}: {OURS} already; give it to --init unchanged")
    check_kind(path, state, kind)
    return state
