"""What a run starts from: BEVT-I before the joint stage, and any of the stages before fine-tuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.storage.descriptions import what_is
from bevt_core.weights.checkpoints import load_weights
from bevt_core.weights.surgery import (
    StateDict,
    bias_tables,
    classifier_from_pretrained,
    copy_encoder,
    initialise,
    joint_from_image_stream,
    resize_bias_table,
)
from schemas.errors import UserError
from trainer.runs.directory import WEIGHTS, weights_of

# what must be equal to continue from other weights; windows may differ where images were all that was seen
SIZES = ("encoder", "embed_dim", "depths", "depth", "num_heads", "mlp_ratio", "vocab_size")
CLASSIFIER_SIZES = ("encoder", "embed_dim", "depths", "depth", "num_heads", "mlp_ratio", "patch", "grid")


def start_from(model: Bevt, init: str) -> list[str]:
    """Load `init`, the run directory or the weights of a pretraining run, and return the parameters that stay fresh.

    Raises UserError, naming both values, for weights of another architecture.
    """
    path = weights_file(init)
    source = load_weights(path)
    if not isinstance(source, Bevt):
        raise UserError(f"init {init}: the weights of a classifier; expected a pretraining run, or its weights")
    keys = SIZES if "video" in model.route and "video" not in source.route else (*SIZES, "window", "grid", "patch")
    check_sizes(path, source.config, model.config, keys)
    return initialise(model, starting_state(source.state_dict(), source.config, model.config))


def starting_state(state: Mapping[str, Tensor], old: Mapping[str, Any], new: Mapping[str, Any]) -> StateDict:
    """Turn the weights of a model of config `old` into what one of config `new` starts from.

    Unlike the original, whose checkpoint loader misses it, the LM head is taken over too: the tokens are the same.
    """
    if "video" in new["streams"] and "video" not in old["streams"]:
        tubelet = new["patch"][0]
        windows: dict[str, Any] = {
            "old_window": old.get("window"),
            "window": new.get("window"),
        }  # TimeSformer has no bias tables
        state = joint_from_image_stream(state, tubelet=tubelet, **windows).state
    unused = [f"{part}.{stream}." for part in ("stems", "decoders") for stream in ("video", "image")]
    unused = [prefix for prefix in unused if prefix.split(".")[1] not in new["streams"]]
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(unused))}
    return copy_encoder(kept, new["streams"]) if new["share_encoder"] == "separate" else kept


def start_classifier(model: Classifier, init: str) -> list[str]:
    """Load the encoder, stem and norm of `init` into `model`; return the parameters that stay fresh.

    `init` is the run directory or the weights of a pretraining or a fine-tuning run. Bias tables are resized where the
    windows differ. Raises UserError, naming both values, for another architecture.
    """
    path = weights_file(init)
    source = load_weights(path)
    check_sizes(path, source.config, model.config, CLASSIFIER_SIZES)
    return initialise(model, classifier_state(source, model.config))


def classifier_state(source: Bevt | Classifier, new: Mapping[str, Any]) -> StateDict:
    """Turn weights of either kind into what a classifier of config `new` starts from, all but the head."""
    state, window = source.state_dict(), new.get("window")
    windows: dict[str, Any] = {"old_window": source.config.get("window"), "window": window}  # TimeSformer has none
    if isinstance(source, Classifier):
        kept = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
        tables = bias_tables(kept)
        return kept | {key: resize_bias_table(kept[key], windows["old_window"], windows["window"]) for key in tables}
    if "video" not in source.route:
        state = joint_from_image_stream(state, tubelet=source.config["patch"][0], **windows).state
        windows["old_window"] = window
    return classifier_from_pretrained(state, **windows).state


def weights_file(init: str) -> Path:
    """The weights that `init`, a run directory or a file, names. Raises UserError where there are none."""
    path = weights_of(Path(init))
    if not path.is_file():
        raise UserError(
            f"init {init}: {what_is(Path(init))}; expected a finished run of pretraining or fine-tuning, or its "
            f"{WEIGHTS}; to start from scratch, --set init=null"
        )
    return path


def check_sizes(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise UserError, naming both values, for a size of the weights in `path` that the model has not."""
    for key in keys:
        then, now = old.get(key), new.get(key)  # an encoder of another kind has other keys
        if list_of(then) != list_of(now):
            raise UserError(
                f"init {path}: {key} is {list_of(then)}, but the recipe's model has {list_of(now)}; make them agree"
            )


def list_of(value: Any) -> Any:
    """A tuple as the list that JSON made of it."""
    return list(value) if isinstance(value, tuple) else value
