"""Conversion of weights to another model, as pure functions from state dict to state dict.

Nothing is matched loosely: every tensor of the source is either used or reported as dropped.

Legend: R rows of a relative position bias table, A attention heads; windows are (T, H, W).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.models.bevt import Stream
from bevt_core.models.windows import Size3
from schemas.errors import UserError

StateDict = dict[str, Tensor]


class Surgery(NamedTuple):
    """A state dict made from another, and the keys of the source that it does not use."""

    state: StateDict
    dropped: list[str]


def rename(state: Mapping[str, Tensor], table: Mapping[str, str], dropped: str, source: str) -> Surgery:
    """Rename every key by the first pattern of `table` that matches its beginning; drop keys that match `dropped`.

    Patterns are regular expressions; `source` describes the checkpoint in messages. Raises UserError for a key that
    matches neither, and for two keys that would get the same name.
    """
    new_state: StateDict = {}
    dropped_keys = []
    for key, tensor in state.items():
        if re.search(dropped, key):
            dropped_keys.append(key)
            continue
        for pattern, replacement in table.items():
            if re.match(pattern, key):
                new_key = re.sub(pattern, replacement, key, count=1)
                if new_key in new_state:
                    raise UserError(f"{key}: a second key of {source} for {new_key}; expected only one")
                new_state[new_key] = tensor
                break
        else:
            raise UserError(f"{key}: not a key of {source}; the checkpoint is of another kind")
    return Surgery(new_state, dropped_keys)


def initialise(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load the tensors of `state` and return the keys of the parameters that keep their initial values.

    Raises UserError for a tensor that the model does not have, or that has a different shape.
    """
    check_fits(model, state)
    missing: list[str] = model.load_state_dict(dict(state), strict=False).missing_keys
    return missing


def check_fits(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise UserError for a tensor that the model does not have, or that has a different shape."""
    own = model.state_dict()
    for key, tensor in state.items():
        if key not in own:
            raise UserError(
                f"{key}: the model has no such parameter; build it with the checkpoint's streams and encoder sharing"
            )
        if own[key].shape != tensor.shape:
            raise UserError(
                f"{key}: the checkpoint has {tuple(tensor.shape)}, the model {tuple(own[key].shape)}; "
                "build the model with the checkpoint's sizes"
            )


def joint_from_image_stream(state: Mapping[str, Tensor], *, tubelet: int, old_window: Size3, window: Size3) -> Surgery:
    """Initialise the joint model from the image stream (BEVT, section 3.3); the video decoder keeps its initial values.

    The video stem is the image stem repeated over the `tubelet` frames and divided by their number. The bias
    tables' rows for temporal distance 0, the only ones that images train, are repeated over all distances.
    """
    surgery = rename(
        state,
        {
            r"encoders\.(shared|image)\.": "encoders.shared.",
            r"(stems|decoders)\.image\.|mask_token|norm\.|lm_head(_[\w-]+)?\.": r"\g<0>",  # unchanged
        },
        r"^(stems|encoders|decoders)\.video\.",
        "BEVT",
    )
    new_state = surgery.state
    new_state.update(inflate_stem(new_state, "stems.image.", "stems.video.", tubelet))
    for key in bias_tables(new_state):
        new_state[key] = inflate_bias_table(new_state[key], old_window, window)
    return surgery


def classifier_from_pretrained(
    state: Mapping[str, Tensor], *, old_window: Size3, window: Size3, stream: Stream = "video"
) -> Surgery:
    """Keep the stream's stem, encoder and final norm for fine-tuning; the classifier's `fc` keeps its initial values.

    The original code does the same: its fine-tuning encoder loads the pretraining norm, which has the same name.
    """
    other = {"video": "image", "image": "video"}[stream]
    encoder = stream if any(key.startswith(f"encoders.{stream}.") for key in state) else "shared"
    table = {rf"stems\.{stream}\.": "stem.", rf"encoders\.{encoder}\.": "encoder.", r"norm\.": "norm."}
    other_parts = rf"^(stems\.{other}|encoders\.{other}|decoders|lm_head(_[\w-]+)?|mask_token)\b"
    surgery = rename(state, table, other_parts, "a pretraining model")
    for key in bias_tables(surgery.state):
        surgery.state[key] = resize_bias_table(surgery.state[key], old_window, window)
    return surgery


def copy_encoder(state: Mapping[str, Tensor], names: Iterable[str]) -> StateDict:
    """Copy the weights of the encoder `shared` to the encoders `names`, for models with an encoder per stream."""
    shared = {key: tensor for key, tensor in state.items() if key.startswith("encoders.shared.")}
    others = {key: tensor for key, tensor in state.items() if key not in shared}
    copies = {key.replace("shared", name, 1): tensor for name in names for key, tensor in shared.items()}
    return {**others, **copies}


def bias_tables(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of the relative position bias tables."""
    return [key for key in state if key.endswith("relative_position_bias_table")]


def resize_bias_table(table_RA: Tensor, old: Size3, new: Size3) -> Tensor:
    """Interpolate a bias table trilinearly over relative positions, to another window: (R, A) -> (R', A)."""
    if tuple(old) == tuple(new):
        return table_RA
    old_rows, new_rows = ([2 * size - 1 for size in window] for window in (old, new))
    volume = table_RA.T.reshape(1, -1, *old_rows)
    return F.interpolate(volume, size=new_rows, mode="trilinear").reshape(table_RA.shape[1], -1).T.contiguous()


def inflate_bias_table(table_RA: Tensor, old: Size3, new: Size3) -> Tensor:
    """Repeat a table's rows of temporal distance 0 over all distances, resized bicubically if H or W differ.

    An image encoder's table has no other rows: its window is (1, H, W).
    """
    old_T, old_H, old_W = (2 * size - 1 for size in old)
    new_T, new_H, new_W = (2 * size - 1 for size in new)
    same_time_HWA = table_RA.view(old_T, old_H, old_W, -1)[old_T // 2]
    if (old_H, old_W) != (new_H, new_W):
        plane = same_time_HWA.permute(2, 0, 1)[None]
        same_time_HWA = F.interpolate(plane, size=(new_H, new_W), mode="bicubic")[0].permute(1, 2, 0)
    return same_time_HWA.reshape(new_H * new_W, -1).repeat(new_T, 1)


def inflate_stem(state: Mapping[str, Tensor], image_stem: str, video_stem: str, tubelet: int) -> StateDict:
    """Make a 3-D stem from a 2-D one: its kernel repeated over `tubelet` frames and divided."""
    stem = {key.replace(image_stem, video_stem): value for key, value in state.items() if key.startswith(image_stem)}
    kernel_key = f"{video_stem}proj.weight"
    kernel_OCHW = stem[kernel_key]
    return {**stem, kernel_key: kernel_OCHW.unsqueeze(2).repeat(1, 1, tubelet, 1, 1) / tubelet}


def tensor_of(state: Mapping[str, Tensor], key: str, ndim: int) -> Tensor:
    """Return the tensor `key`. Raises UserError if it is missing, empty, or does not have `ndim` dimensions."""
    if key not in state:
        raise UserError(f"{key} is missing; the checkpoint is incomplete")
    if state[key].ndim != ndim or not state[key].numel():
        raise UserError(f"{key} has the shape {tuple(state[key].shape)}, expected {ndim} dimensions")
    return state[key]


def swin_sizes(state: Mapping[str, Tensor], stem: str, encoder: str) -> dict[str, Any]:
    """Infer a Swin's sizes from its tensors, as arguments of the builders; `stem` and `encoder` are key prefixes.

    Raises UserError if a required tensor is missing or has the wrong number of dimensions.
    """
    kernel = tensor_of(state, f"{stem}proj.weight", 5)
    block = re.compile(rf"{re.escape(encoder)}stages\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table")
    tables = {(int(m[1]), int(m[2])): tensor_of(state, m[0], 2) for m in map(block.match, state) if m}
    num_stages = len({stage for stage, _ in tables})
    if not {(stage, 0) for stage in range(max(num_stages, 1))} <= tables.keys():
        raise UserError(f"{encoder}stages: the first block of a stage is missing; the checkpoint is incomplete")
    fc1 = tensor_of(state, f"{encoder}stages.0.blocks.0.mlp.fc1.weight", 2)
    return {
        "embed_dim": kernel.shape[0],
        "patch": tuple(kernel.shape[2:]),
        "depths": tuple(sum(s == stage for s, _ in tables) for stage in range(num_stages)),
        "num_heads": tuple(tables[stage, 0].shape[1] for stage in range(num_stages)),
        "window": window_of_table(len(tables[0, 0])),
        "mlp_ratio": fc1.shape[0] / fc1.shape[1],
    }


def window_of_table(num_rows: int) -> Size3:
    """Return the window (t, s, s) whose bias table has (2t-1)(2s-1)^2 rows, with s = 7 as in Swin if possible, else the
    largest s. Raises UserError if there is no such window.
    """
    largest = int(num_rows**0.5) // 2 + 1
    for side in (7, *range(largest, 0, -1)):
        length, rest = divmod(num_rows, (2 * side - 1) ** 2)
        if not rest and length % 2:
            return ((length + 1) // 2, side, side)
    raise UserError(f"a relative position bias table of {num_rows} rows fits no window (t, s, s)")
