"""Surgery between our own checkpoints, as pure functions from state dict to state dict.

Nothing is matched loosely: every tensor of a source is used, or named in the report of what was dropped.

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
    """A state dict made from another, and the keys of the source that have no place in it."""

    state: StateDict
    dropped: list[str]


def rename(state: Mapping[str, Tensor], table: Mapping[str, str], dropped: str, source: str) -> Surgery:
    """Rename every key by the first pattern of `table` that its beginning matches; drop what matches `dropped`.

    Raises UserError for a key that neither knows, and for two that get one name.
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
                    raise UserError(f"{key}: the second key of {source} that means {new_key}")
                new_state[new_key] = tensor
                break
        else:
            raise UserError(f"{key}: not a key of {source}; is the checkpoint of another kind?")
    return Surgery(new_state, dropped_keys)


def initialise(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load what `state` has and return the keys that stay fresh.

    Raises UserError for a tensor that the model has no place for, or one of another shape.
    """
    own = model.state_dict()
    for key, tensor in state.items():
        if key not in own:
            raise UserError(f"{key}: the model has no such parameter; it was built with other streams or sharing")
        if own[key].shape != tensor.shape:
            raise UserError(
                f"{key}: the checkpoint has {tuple(tensor.shape)}, the model {tuple(own[key].shape)}; "
                "build the model with the checkpoint's sizes"
            )
    return model.load_state_dict(dict(state), strict=False).missing_keys


def joint_from_image_stream(state: Mapping[str, Tensor], *, tubelet: int, old_window: Size3, window: Size3) -> Surgery:
    """Start the joint model from the image stream (BEVT, section 3.3): the encoder learns about time from there on.

    The video stem is the image stem repeated over the `tubelet` frames and divided by their number. The bias
    tables' rows for temporal distance 0, the only ones that images train, are repeated over all distances.
    The video decoder stays fresh.
    """
    surgery = rename(
        state,
        {
            r"encoders\.(shared|image)\.": "encoders.shared.",
            r"(stems|decoders)\.image\.|mask_token|norm\.|lm_head\.": r"\g<0>",
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
    """Keep what fine-tuning starts from: the stream's stem, encoder, final norm. The classifier's `fc` stays fresh.

    The original does the same: its fine-tuning encoder finds the pretraining norm under its own name.
    """
    other = {"video": "image", "image": "video"}[stream]
    encoder = stream if any(key.startswith(f"encoders.{stream}.") for key in state) else "shared"
    table = {rf"stems\.{stream}\.": "stem.", rf"encoders\.{encoder}\.": "encoder.", r"norm\.": "norm."}
    other_parts = rf"^(stems\.{other}|encoders\.{other}|decoders|lm_head|mask_token)\b"
    surgery = rename(state, table, other_parts, "a pretraining model")
    for key in bias_tables(surgery.state):
        surgery.state[key] = resize_bias_table(surgery.state[key], old_window, window)
    return surgery


def copy_encoder(state: Mapping[str, Tensor], names: Iterable[str]) -> StateDict:
    """Give the weights of the encoder `shared` to the encoders `names`, for models that keep their streams apart."""
    shared = {key: tensor for key, tensor in state.items() if key.startswith("encoders.shared.")}
    others = {key: tensor for key, tensor in state.items() if key not in shared}
    copies = {key.replace("shared", name, 1): tensor for name in names for key, tensor in shared.items()}
    return {**others, **copies}


def bias_tables(state: Mapping[str, Tensor]) -> list[str]:
    """Name the relative position bias tables of a state dict."""
    return [key for key in state if key.endswith("relative_position_bias_table")]


def resize_bias_table(table_RA: Tensor, old: Size3, new: Size3) -> Tensor:
    """Interpolate a bias table over relative positions, trilinearly, to another window: (R, A) -> (R', A)."""
    if tuple(old) == tuple(new):
        return table_RA
    old_rows, new_rows = ([2 * size - 1 for size in window] for window in (old, new))
    volume = table_RA.T.reshape(1, -1, *old_rows)
    return F.interpolate(volume, size=new_rows, mode="trilinear").reshape(table_RA.shape[1], -1).T.contiguous()


def inflate_bias_table(table_RA: Tensor, old: Size3, new: Size3) -> Tensor:
    """Repeat a table's rows of temporal distance 0 over all distances, bicubic where the windows differ in space.

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
    """Return the tensor `key`. Raises UserError where there is none, or one of other than `ndim` dimensions."""
    if key not in state:
        raise UserError(f"{key} is missing; the checkpoint is not whole")
    if state[key].ndim != ndim or not state[key].numel():
        raise UserError(f"{key} has the shape {tuple(state[key].shape)}, expected {ndim} dimensions")
    return state[key]


def swin_sizes(state: Mapping[str, Tensor], stem: str, encoder: str) -> dict[str, Any]:
    """Read a Swin's sizes off its tensors, as arguments of the builders. `stem` and `encoder` begin their keys.

    Raises UserError where a tensor that says them is missing, or has another number of dimensions.
    """
    kernel = tensor_of(state, f"{stem}proj.weight", 5)
    block = re.compile(rf"{re.escape(encoder)}stages\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table")
    tables = {(int(m[1]), int(m[2])): tensor_of(state, m[0], 2) for m in map(block.match, state) if m}
    num_stages = len({stage for stage, _ in tables})
    if not {(stage, 0) for stage in range(max(num_stages, 1))} <= tables.keys():
        raise UserError(f"{encoder}stages: the first block of some stage is missing; the checkpoint is not whole")
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
    """Find the window (t, s, s) whose bias table has (2t-1)(2s-1)^2 rows: Swin's s = 7, else the largest s."""
    largest = int(num_rows**0.5) // 2 + 1
    for side in (7, *range(largest, 0, -1)):
        length, rest = divmod(num_rows, (2 * side - 1) ** 2)
        if not rest and length % 2:
            return ((length + 1) // 2, side, side)
    raise UserError(f"a relative position bias table of {num_rows} rows belongs to no window (t, s, s)")
