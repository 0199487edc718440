"""Recognition of checkpoints by the keys of their state dicts, whether they can be imported or not."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from schemas.errors import UserError

IMPORTABLE = {  # --kind of `bevt import-checkpoint` -> description
    "official": "pretraining checkpoints of BEVT's original code",
    "video-swin": "classifiers of Video Swin's code and mmaction2",
    "torchvision": "torchvision's swin3d_t, swin3d_s and swin3d_b",
    "image-swin": "2-D Swin of timm or its authors",
}

PATCH_KERNEL = re.compile(r"(patch_embed|patch_embeddings)\.(proj|projection)\.weight$")
SHOWN_KEYS = 3


class Family(NamedTuple):
    """A kind of checkpoint: patterns that its keys must match, and the dimensions of its patch embedding."""

    name: str
    keys: tuple[str, ...]  # regular expressions, each found in at least one key
    patch_dims: int | None = None  # 5 for clips, 4 for pictures, None if irrelevant
    kind: str | None = None  # a key of IMPORTABLE; None if it cannot be imported


OURS = "weights of bevt"
SWIN_TABLE = r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"

FAMILIES = (  # the first match counts
    Family(OURS, (r"^(encoder|encoders\.\w+)\.(stages\.0\.)?blocks\.0\.", r"^(stem|stems\.\w+)\.proj\.weight$")),
    Family(
        "a pretraining checkpoint of BEVT's original code",
        (r"^cls_head\.lm_head\.weight$", r"^backbone\.fpn_t\.0\.weight$"),
        kind="official",
    ),
    Family("a Swin Transformer V2", (r"attn\.(cpb_mlp\.|logit_scale$)",)),
    Family("a Swin Transformer V2 (Hugging Face)", (r"^swinv2\.",)),
    Family(
        "a Video Swin classifier",
        (rf"^backbone\.{SWIN_TABLE}", r"^cls_head\.fc_cls\.weight$"),
        patch_dims=5,
        kind="video-swin",
    ),
    Family("a Video Swin without its classifier (cls_head.fc_cls)", (rf"(^|\.){SWIN_TABLE}",), patch_dims=5),
    Family(
        "a swin3d model of torchvision",
        (r"^features\.0\.0\.attn\.relative_position_bias_table$",),
        patch_dims=5,
        kind="torchvision",
    ),
    Family("a 2-D Swin of torchvision", (r"^features\.1\.0\.attn\.relative_position_bias_table$",)),
    Family("a 2-D Swin", (rf"(^|\.){SWIN_TABLE}",), patch_dims=4, kind="image-swin"),
    Family("a 2-D Swin of mmpretrain or mmdetection", (r"stages\.0\.blocks\.0\.attn\.w_msa\.",)),
    Family("a 2-D Swin of Hugging Face", (r"^swin\.encoder\.layers\.0\.blocks\.0\.",)),
    Family("an MViT", (r"attn\.(pool_[qkv]|norm_[qkv]|rel_pos_h)\b",)),
    Family("a TimeSformer of another code", (r"temporal_(attn|attention|fc|dense)\b|(^|\.)time_embed(dings)?$",)),
    Family("a VideoMAE (Hugging Face)", (r"^videomae\.",)),
    Family("a VideoMAE, version 1 or 2", (r"blocks\.0\.attn\.q_bias$",), patch_dims=5),
    Family("a ViT on video, such as VideoMAE or V-JEPA", (r"(blocks|layers?)\.0\.",), patch_dims=5),
    Family("a UniFormer", (r"blocks1\.0\.pos_embed\.weight$",)),
    Family("a BEiT", (r"blocks\.0\.gamma_1$|^beit\.",)),
    Family("a ViT", (r"(^|\.)(blocks|layers?)\.0\.", r"(^|\.)(cls_token|pos_embed)$"), patch_dims=4),
    Family("a convolutional network", (r"(^|\.)layer1\.0\.conv1\b|(^|\.)res2\.|bn\d?\.running_mean$",)),
    Family("a DALL-E tokenizer", (r"^blocks\.group_1\.block_1\.",)),
)


def family_of(state: Mapping[str, Tensor]) -> Family | None:
    """Return the first family that matches the keys, or None."""
    kernel = next((tensor for key, tensor in state.items() if PATCH_KERNEL.search(key)), None)
    for family in FAMILIES:
        if family.patch_dims is not None and (kernel is None or kernel.ndim != family.patch_dims):
            continue
        if all(any(re.search(pattern, key) for key in state) for pattern in family.keys):
            return family
    return None


def check_kind(path: Path, state: Mapping[str, Tensor], kind: str) -> None:
    """Raise UserError unless the checkpoint is of `kind`, a key of IMPORTABLE; the message gives `advice`."""
    family = family_of(state)
    if family is None or family.kind != kind:
        raise UserError(f"{path}: {advice(path, state)}")


def advice(path: Path, state: Mapping[str, Tensor]) -> str:
    """Describe the checkpoint, and how to import it or that it cannot be imported."""
    family = family_of(state)
    if family is None:
        first = ", ".join(list(state)[:SHOWN_KEYS])
        return f"a checkpoint of unknown origin (its first keys: {first}); {accepted()}"
    if family.name == OURS:
        return "weights of bevt already; give --init the directory of their run, or its weights.safetensors"
    if family.kind is None:
        return f"{family.name}, which cannot be imported; {accepted()}"
    return f"{family.name}; run `bevt import-checkpoint {path} --kind {family.kind} --out FILE.safetensors`"


def accepted() -> str:
    """Return the phrase that lists the importable kinds of checkpoints."""
    return "expected " + ", ".join(f"{kind} ({what})" for kind, what in IMPORTABLE.items())
