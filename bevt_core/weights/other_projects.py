"""Renaming of other projects' state dicts to our keys; `surgery.swin_sizes` then infers the sizes from them."""

import re
from collections.abc import Mapping

from torch import Tensor

from bevt_core.models.windows import Size3
from bevt_core.weights.surgery import (
    Surgery,
    bias_tables,
    inflate_bias_table,
    inflate_stem,
    rename,
    tensor_of,
    window_of_table,
)

SHAPE_BUFFERS = r"relative_position_index$|attn_mask$"  # buffers of other codes that follow from the shapes

OFFICIAL_KEYS = {
    r"backbone\.patch_embed\.": "stems.video.",
    r"backbone\.patch_embed_2d\.": "stems.image.",
    r"backbone\.layers\.(\d+)\.blocks\.": r"encoders.shared.stages.\1.blocks.",
    r"backbone\.layers\.0\.downsample\.": "encoders.shared.stages.1.merge.",
    r"backbone\.layers\.1\.downsample\.": "encoders.shared.stages.2.merge.",
    r"backbone\.layers\.2\.downsample\.": "encoders.shared.stages.3.merge.",
    r"backbone\.fpn\.0\.": "decoders.image.up_space.",
    r"backbone\.lm_down\.": "decoders.image.fuse.",
    r"backbone\.fpn_s\.0\.": "decoders.video.decoder.up_space.",
    r"backbone\.lm_down_st\.0\.": "decoders.video.decoder.fuse.",
    r"backbone\.fpn_t\.0\.": "decoders.video.up_time.",
    r"backbone\.mask_token": "mask_token",
    r"backbone\.norm\.": "norm.",
    r"cls_head\.lm_head\.": "lm_head.",
}
# the tokenizer in the loss head, and an unused classifier's head
OFFICIAL_DROPPED = rf"^cls_head\.vae_encoder\.|^cls_head\.fc_cls\.|^finetune\.|{SHAPE_BUFFERS}"

TORCHVISION_KEYS = {
    r"patch_embed\.": "stem.",
    **{rf"features\.{2 * i}\.(\d+)\.mlp\.0\.": rf"encoder.stages.{i}.blocks.\1.mlp.fc1." for i in range(4)},
    **{rf"features\.{2 * i}\.(\d+)\.mlp\.3\.": rf"encoder.stages.{i}.blocks.\1.mlp.fc2." for i in range(4)},
    **{rf"features\.{2 * i}\.(\d+)\.": rf"encoder.stages.{i}.blocks.\1." for i in range(4)},
    **{rf"features\.{2 * i - 1}\.": f"encoder.stages.{i}.merge." for i in range(1, 4)},
    r"norm\.": "norm.",
    r"head\.": "fc.",
}

VIDEO_SWIN_KEYS = {  # of github.com/SwinTransformer/Video-Swin-Transformer; mmaction2 1.x names the last norm norm3
    r"backbone\.patch_embed\.": "stem.",
    r"backbone\.layers\.(\d+)\.blocks\.": r"encoder.stages.\1.blocks.",
    **{rf"backbone\.layers\.{i}\.downsample\.": f"encoder.stages.{i + 1}.merge." for i in range(3)},
    r"backbone\.norm3?\.": "norm.",
    r"cls_head\.fc_cls\.": "fc.",
}
# mmaction2's normalisation constants, which equal ours: ImageNet's
VIDEO_SWIN_DROPPED = rf"^data_preprocessor\.(mean|std)$|{SHAPE_BUFFERS}"

IMAGE_SWIN_KEYS = {
    r"patch_embed\.": "stems.image.",
    r"layers\.(\d+)\.blocks\.": r"encoders.shared.stages.\1.blocks.",
    r"(fc_)?norm\.": "norm.",
}
ORIGINAL_MERGES = {rf"layers\.{i}\.downsample\.": f"encoders.shared.stages.{i + 1}.merge." for i in range(3)}
TIMM_MERGES = {rf"layers\.{i}\.downsample\.": f"encoders.shared.stages.{i}.merge." for i in range(1, 4)}
# heads of supervised, contrastive and masked image models
IMAGE_SWIN_DROPPED = rf"^(head|fc|projector|predictor|queue|encoder_k|decoder|lm_head|mask_token)\b|{SHAPE_BUFFERS}"


def bevt_from_official(state: Mapping[str, Tensor]) -> Surgery:
    """Rename the original code's pretraining model (github.com/xyzforever/BEVT).

    The image decoder's 2-D kernel gets a temporal axis of 1.
    """
    surgery = rename(state, OFFICIAL_KEYS, OFFICIAL_DROPPED, "the original pretraining model")
    new_state = surgery.state
    new_state["mask_token"] = tensor_of(new_state, "mask_token", 3).flatten()
    kernel_2d = tensor_of(new_state, "decoders.image.up_space.weight", 4)
    new_state["decoders.image.up_space.weight"] = kernel_2d.unsqueeze(2)
    return surgery


def classifier_from_torchvision(state: Mapping[str, Tensor]) -> Surgery:
    """Rename torchvision's `swin3d_t`, `swin3d_s` or `swin3d_b`."""
    return rename(state, TORCHVISION_KEYS, SHAPE_BUFFERS, "torchvision's swin3d models")


def classifier_from_video_swin(state: Mapping[str, Tensor]) -> Surgery:
    """Rename a classifier of Video Swin's own code, or of mmaction2 0.x or 1.x."""
    return rename(state, VIDEO_SWIN_KEYS, VIDEO_SWIN_DROPPED, "a Video Swin classifier")


def bevt_from_image_swin(state: Mapping[str, Tensor], *, tubelet: int, window: Size3) -> Surgery:
    """Inflate an image Swin, of timm or the original code: "Image Sup" and "Image CL" of the paper's tables.

    Fills both stems, the encoder and the norm; decoders, mask token and LM head keep their initial values.
    """
    bare = {re.sub(r"^(module\.)?((backbone|encoder)\.)?", "", key): tensor for key, tensor in state.items()}
    merges = ORIGINAL_MERGES if "layers.0.downsample.norm.weight" in bare else TIMM_MERGES
    surgery = rename(bare, {**IMAGE_SWIN_KEYS, **merges}, IMAGE_SWIN_DROPPED, "an image Swin Transformer")
    new_state = surgery.state
    tensor_of(new_state, "stems.image.proj.weight", 4)
    new_state.update(inflate_stem(new_state, "stems.image.", "stems.video.", tubelet))
    for key in bias_tables(new_state):
        old_window = window_of_table(len(tensor_of(new_state, key, 2)))
        new_state[key] = inflate_bias_table(new_state[key], old_window, window)
    return surgery
