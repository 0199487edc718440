"""Load initial weights: BEVT-I for the joint stage, any pretraining or fine-tuning run for fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from bevt_core.console.terminal import note
from bevt_core.models.bevt import Bevt
from bevt_core.models.classifier import Classifier
from bevt_core.weights.model_files import load_weights
from bevt_core.weights.surgery import (
    StateDict,
    bias_tables,
    check_fits,
    classifier_from_pretrained,
    copy_encoder,
    initialise,
    joint_from_image_stream,
    resize_bias_table,
)
from schemas.errors import UserError
from schemas.text.json_text import json_text
from trainer.runs.directory import weights_file

# sizes that must match those of the initial weights; windows may differ from those of an image model
SIZES = ("encoder", "embed_dim", "depths", "depth", "num_heads", "mlp_ratio")
CLASSIFIER_SIZES = ("encoder", "embed_dim", "depths", "depth", "num_heads", "mlp_ratio", "patch", "grid")
ENCODER_KEYS = ("embed_dim", "depths", "depth", "num_heads", "patch", "grid", "window")  # of a recipe's encoder
HEAD = "lm_head"  # of the first target; those of further ones are HEAD_NAME

M = TypeVar("M", Bevt, Classifier)


def start_from(model: Bevt, init: str) -> list[str]:
    """Load `init` into `model` and return the names of the parameters not in it.

    `init` is a pretraining run, its weights or a packaged model. Raises UserError for weights of a different
    architecture.
    """
    return initialise(model, pretrained_state(model, init))


def pretrained_state(model: Bevt, init: str) -> StateDict:
    """Return the initial weights in `init` for `model`. Raises UserError for weights of a different architecture."""
    source = load_weights(weights_file(init))
    if not isinstance(source, Bevt):
        raise UserError(
            f"init {init}: these are the weights of a classifier; expected a pretraining run, or its weights"
        )
    keys = SIZES if "video" in model.route and "video" not in source.route else (*SIZES, "window", "grid", "patch")
    if paired_heads(source.config, model.config).get(HEAD) == HEAD:
        keys = (*keys, "vocab_size")
    check_sizes(init, source.config, model.config, keys, "model.encoder")
    check_heads(init, source.config, model.config)
    return starting_state(source.state_dict(), source.config, model.config)


def starting_state(state: Mapping[str, Tensor], old: Mapping[str, Any], new: Mapping[str, Any]) -> StateDict:
    """Turn the weights of a model with config `old` into initial weights for a model with config `new`.

    LM heads are included, since the tokens are the same; the original's checkpoint loader does not load them. See
    `paired_heads`.
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
    unused += [f"{head}." for head in heads_in(old)]
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(unused))}
    for head, source in paired_heads(old, new).items():
        kept |= {f"{head}.{name}": state[f"{source}.{name}"] for name in ("weight", "bias")}
    return copy_encoder(kept, new["streams"]) if new["share_encoder"] == "separate" else kept


def heads_in(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the vocabulary sizes of a pretraining model's LM heads, by the name of the module."""
    more: Mapping[str, int] = config.get("more_heads", {})
    return {HEAD: config["vocab_size"], **{f"{HEAD}_{name}": size for name, size in more.items()}}


def paired_heads(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the heads of a model with config `new` that start from one of a model with config `old`, with that head.

    Targets are paired by name, and the first ones also if one of them has no name.
    """
    names, wanted = target_names(old), target_names(new)
    pairs = {head: names[name] for name, head in wanted.items() if name is not None and name in names}
    if HEAD not in pairs and HEAD not in pairs.values() and (None in names or None in wanted):
        pairs[HEAD] = HEAD
    return pairs


def target_names(config: Mapping[str, Any]) -> dict[str | None, str]:
    """Return the head of every target, by the target's name; the first one may have none."""
    more: Mapping[str, int] = config.get("more_heads", {})
    return {config.get("first_target"): HEAD, **{name: f"{HEAD}_{name}" for name in more}}


def check_heads(init: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UserError if a target has another vocabulary in the weights `init`; note which heads are not used."""
    pairs, stored, wanted = paired_heads(old, new), heads_in(old), heads_in(new)
    for head, source in pairs.items():
        if stored[source] != wanted[head]:
            raise UserError(
                f"init {init}: {source} predicts {stored[source]} tokens, but the recipe's {head} {wanted[head]}; use "
                "tokens of the tokenizer that it was trained with, or another name for the target"
            )
    if unused := [head for head in stored if head not in pairs.values()]:
        note(f"init {init}: {', '.join(unused)} not used, since the recipe has no such target")


def start_classifier(model: Classifier, init: str) -> list[str]:
    """Load the encoder, stem and norm of `init` into `model`; return the names of the parameters not in it.

    `init` is a pretraining or fine-tuning run, its weights or a packaged model. Bias tables are resized if the windows
    differ. Raises UserError for weights of a different architecture.
    """
    return initialise(model, encoder_state(model, init))


def encoder_state(model: Classifier, init: str) -> StateDict:
    """Return the initial weights in `init` for `model`. Raises UserError for weights of a different architecture."""
    source = load_weights(weights_file(init))
    check_sizes(init, source.config, model.config, CLASSIFIER_SIZES, "encoder")
    return classifier_state(source, model.config)


def check_init(init: str | None, build: Callable[[], M], state_for: Callable[[M, str], StateDict]) -> None:
    """Raise UserError if the model that `build` returns cannot start from `init`, without allocating the model.

    `state_for` returns the initial weights: `pretrained_state` or `encoder_state`.
    """
    if init is not None:
        with torch.device("meta"):
            model = build()
        check_fits(model, state_for(model, init))


def classifier_state(source: Bevt | Classifier, new: Mapping[str, Any]) -> StateDict:
    """Turn weights of either kind into initial weights for a classifier with config `new`, without the head."""
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


def check_sizes(init: str, old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str], encoder: str) -> None:
    """Raise UserError, naming both values, if sizes of the weights `init` differ from those of the recipe's model.

    `encoder` is the recipe's key of the encoder; the error names the overrides that take the checkpoint's encoder.
    """
    differing = [key for key in keys if list_of(old.get(key)) != list_of(new.get(key))]
    if not differing:
        return
    if "encoder" in differing:  # encoders of different kinds have different keys
        differing, fix = ["encoder"], "use a recipe with the same kind of encoder"
    elif "vocab_size" in differing:
        fix = "use tokens of the tokenizer that it was trained with"
    else:
        overrides = [
            f"`{encoder}.{key}={json_text(old[key]).replace(' ', '')}`" for key in differing if key in ENCODER_KEYS
        ]
        fix = f"take the checkpoint's encoder with {' '.join(overrides)}" if overrides else "use other weights"
    values = [
        f"{key} is {list_of(old.get(key))}, but the recipe's model has {list_of(new.get(key))}" for key in differing
    ]
    raise UserError(f"init {init}: {'; '.join(values)}; {fix}")


def list_of(value: Any) -> Any:
    """Return a tuple as a list, as JSON stores it; other values unchanged."""
    return list(value) if isinstance(value, tuple) else value
