"""What a pretraining run starts from: the weights of another one, BEVT-I before the joint stage above all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bevt_core.bevt import Bevt
from bevt_core.weights import load_weights
from bevt_core.weights_surgery import StateDict, copy_encoder, initialise, joint_from_image_stream
from schemas.errors import UserError
from trainer.run import WEIGHTS

# what must be equal to continue from other weights; windows may differ where images were all that was seen
SIZES = ("encoder", "embed_dim", "depths", "depth", "num_heads", "mlp_ratio", "vocab_size")


def start_from(model: Bevt, init: str) -> list[str]:
    """Load `init`, the run directory or the weights of a pretraining run, and return the parameters that stay fresh.

    Raises UserError, naming both values, for weights of another architecture.
    """
    path = Path(init) / WEIGHTS if Path(init).is_dir() else Path(init)
    if not path.is_file():
        raise UserError(f"init {path}: no such file; give the directory of a finished run, or its {WEIGHTS}")
    source = load_weights(path)
    if not isinstance(source, Bevt):
        raise UserError(f"init {path}: weights of a classifier, expected those of a pretraining run")
    keys = SIZES if "video" in model.route and "video" not in source.route else (*SIZES, "window", "grid", "patch")
    for key in keys:
        then, now = source.config.get(key), model.config.get(key)  # an encoder of another kind has other keys
        if list_of(then) != list_of(now):
            raise UserError(f"init {path}: {key} is {then}, but the recipe's model has {now}; make them agree")
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


def list_of(value: Any) -> Any:
    """A tuple as the list that JSON made of it."""
    return list(value) if isinstance(value, tuple) else value
