"""Weights on disk, and the surgery between checkpoints as functions from state dict to state dict.

Nothing is matched loosely: every tensor of a source is used, or named in the report of what was dropped.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bevt_core.bevt import Bevt
from bevt_core.build import build_bevt, build_classifier
from bevt_core.classifier import Classifier
from schemas.errors import UserError

StateDict = dict[str, Tensor]
Size3 = tuple[int, int, int]  # (T, H, W)

CONFIG_KEY = "bevt_config"  # safetensors metadata: what to build, as JSON
BUILDERS: dict[str, Callable[..., Bevt | Classifier]] = {"bevt": build_bevt, "classifier": build_classifier}


class Surgery(NamedTuple):
    """A state dict made from another, and the keys of the source that have no place in it."""

    state: StateDict
    dropped: list[str]


def save_weights(path: Path, model: Bevt | Classifier) -> None:
    """Write the weights as safetensors with the model's config in the metadata, atomically."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(state, temporary, metadata={CONFIG_KEY: json.dumps(model.config)})
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_weights(path: Path) -> Bevt | Classifier:
    """Rebuild the model that `save_weights` wrote, bit for bit. UserError for a file of another kind."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    if CONFIG_KEY not in metadata:
        raise UserError(f"{path}: no model config inside; run `bevt import-checkpoint` on weights of other projects")
    config = json.loads(metadata[CONFIG_KEY])
    model = BUILDERS[config.pop("kind")](**config)
    model.load_state_dict(load_file(path))
    return model


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of any checkpoint: safetensors, or a `.pth` that keeps them under one of the usual names."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for nesting in ("state_dict", "model", "module"):
        if isinstance(state.get(nesting), Mapping):
            state = state[nesting]
    return {re.sub(r"^module\.", "", key): tensor for key, tensor in state.items()}


def rename(state: Mapping[str, Tensor], table: Mapping[str, str], dropped: str, source: str) -> Surgery:
    """Rename every key by the first pattern of `table` that its beginning matches; drop what matches `dropped`.

    Raises UserError for a key that neither knows.
    """
    new_state, dropped_keys = {}, []
    for key, tensor in state.items():
        if re.search(dropped, key):
            dropped_keys.append(key)
            continue
        for pattern, replacement in table.items():
            if re.match(pattern, key):
                new_state[re.sub(pattern, replacement, key, count=1)] = tensor
                break
        else:
            raise UserError(f"{key}: not a key of {source}; is the checkpoint of another kind?")
    return Surgery(new_state, dropped_keys)


OFFICIAL_KEYS = {
    r"backbone\.patch_embed\.": "stems.video.",
    r"backbone\.patch_embed_2d\.": "stems.image.",
    r"backbone\.layers\.(\d+)\.blocks\.": r"encoders.shared.stages.\1.blocks.",
    r"backbone\.layers\.0\.downsample\.": "encoders.shared.stages.1.merge.",
    r"backbone\.layers\.1\.downsample\.": "encoders.shared.stages.2.merge.",
    r"backbone\.layers\.2\.downsample\.": "encoders.shared.stages.3.merge.",
    r"backbone\.fpn\.0\.": "decoders.image.up_space.",
    r"backbone\.lm_down\.": "decoders.image.fuse.",
    r"backbone\.fpn_s\.0\.": "decoders.video.up_space.",
    r"backbone\.lm_down_st\.0\.": "decoders.video.fuse.",
    r"backbone\.fpn_t\.0\.": "decoders.video.up_time.",
    r"backbone\.mask_token": "mask_token",
    r"backbone\.norm\.": "norm.",
    r"cls_head\.lm_head\.": "lm_head.",
}
# the tokenizer that sat in the loss head, what follows from shapes, a classifier's head that rides along
OFFICIAL_DROPPED = r"^cls_head\.vae_encoder\.|relative_position_index$|attn_mask$|^finetune\.|^cls_head\.fc_cls\."


def load_official(path: Path | str) -> Bevt:
    """Read a pretraining checkpoint of the original code (github.com/xyzforever/BEVT), sizes from its tensors."""
    source = read_state_dict(Path(path))
    model = build_bevt(**official_config(source))
    model.load_state_dict(official_to_bevt(source).state)
    return model


def official_to_bevt(state: Mapping[str, Tensor]) -> Surgery:
    """Turn the original code's pretraining keys into ours; the image decoder's kernel gets an axis of T = 1."""
    surgery = rename(state, OFFICIAL_KEYS, OFFICIAL_DROPPED, "the original pretraining model")
    new_state = surgery.state
    new_state["mask_token"] = new_state["mask_token"].flatten()
    new_state["decoders.image.up_space.weight"] = new_state["decoders.image.up_space.weight"].unsqueeze(2)
    return surgery


def official_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes of the original model off its tensors, as arguments of `build_bevt`."""
    try:
        stem = state["backbone.patch_embed.proj.weight"]
        vocab_size, decoder_dim = state["cls_head.lm_head.weight"].shape
    except KeyError as error:
        raise UserError(f"no {error} among the keys: not a pretraining checkpoint of the original code") from error
    swin = {key.removeprefix("backbone.layers."): value for key, value in state.items() if ".layers." in key}
    return {
        "embed_dim": stem.shape[0],
        "patch": tuple(stem.shape[2:]),
        "vocab_size": vocab_size,
        "decoder_dim": decoder_dim,
        **swin_sizes(swin),
    }


def swin_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read depths, heads, window and MLP ratio off tensors named `<stage>.blocks.<block>....`."""
    blocks = sorted({tuple(map(int, m.groups())) for m in map(re.compile(r"(\d+)\.blocks\.(\d+)").match, state) if m})
    num_stages = blocks[-1][0] + 1
    table = state["0.blocks.0.attn.relative_position_bias_table"]
    fc1 = state["0.blocks.0.mlp.fc1.weight"]
    return {
        "depths": tuple(sum(stage == s for stage, _ in blocks) for s in range(num_stages)),
        "num_heads": tuple(
            state[f"{s}.blocks.0.attn.relative_position_bias_table"].shape[1] for s in range(num_stages)
        ),
        "window": window_of_table(len(table)),
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


def resize_bias_table(table_RA: Tensor, old: Size3, new: Size3) -> Tensor:
    """Interpolate a bias table over relative positions, trilinearly, to another window: (R, A) -> (R', A)."""
    old_rows, new_rows = ([2 * size - 1 for size in window] for window in (old, new))
    volume = table_RA.T.reshape(1, -1, *old_rows)
    return F.interpolate(volume, size=new_rows, mode="trilinear").reshape(table_RA.shape[1], -1).T.contiguous()


def pretrained_to_classifier(state: Mapping[str, Tensor], old_window: Size3, new_window: Size3) -> Surgery:
    """Keep what fine-tuning starts from: video stem, encoder, final norm. The classifier's `fc` stays fresh.

    The original does the same: its fine-tuning encoder finds the pretraining norm under its own name.
    """
    encoder = "video" if any(key.startswith("encoders.video.") for key in state) else "shared"
    table = {r"stems\.video\.": "stem.", rf"encoders\.{encoder}\.": "encoder.", r"norm\.": "norm."}
    other_parts = r"^(stems\.image|encoders\.image|decoders|lm_head|mask_token)\b"
    surgery = rename(state, table, other_parts, "a pretraining model")
    if tuple(old_window) != tuple(new_window):
        for key, tensor in surgery.state.items():
            if key.endswith("relative_position_bias_table"):
                surgery.state[key] = resize_bias_table(tensor, old_window, new_window)
    return surgery
