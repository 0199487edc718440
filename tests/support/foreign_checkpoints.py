"""Checkpoints as other codes write them: models of their libraries, renamed to the keys of the code that is meant."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

VIDEO_SWIN_CODES = ("video-swin", "mmaction2-1.x")


def small_swin3d(window: tuple[int, int, int] = (8, 7, 7), num_classes: int = 5) -> SwinTransformer3d:
    """Two small stages, for crops of 56 pixels and more; weights, biases and norms are random."""
    torch.manual_seed(0)
    model = SwinTransformer3d(
        [2, 4, 4], 16, [2, 2], [2, 4], [*window], 4.0, 0.0, 0.0, 0.0, num_classes, patch_embed=PatchEmbed3d
    )
    return randomised(model, 0.1)


def randomised(model: SwinTransformer3d, deviation: float) -> SwinTransformer3d:
    """The model with every parameter drawn anew, so that none is 0 or 1 in all places."""
    for name, parameter in model.named_parameters():
        centre = 1.0 if re.search(r"norm\d?\.weight|\.norm\.weight", name) else 0.0
        torch.nn.init.normal_(parameter.data, centre, deviation)
    return model.eval()


def as_video_swin(state: Mapping[str, Tensor], code: str = "video-swin") -> dict[str, Tensor]:
    """Torchvision's swin3d under the keys of Video Swin's code or mmaction2 1.x, with the buffers that they store."""
    last_norm = {"video-swin": "norm", "mmaction2-1.x": "norm3"}[code]
    renamed = {}
    for key, tensor in state.items():
        stage = re.match(r"features\.(\d+)\.", key)
        if stage is None:
            new_key = {"head": "cls_head.fc_cls", "norm": f"backbone.{last_norm}"}.get(key.split(".")[0], "backbone")
            tail = key.split(".", 1)[1] if new_key != "backbone" else key
            renamed[f"{new_key}.{tail}"] = tensor
            continue
        at, rest = int(stage[1]), key[stage.end() :]
        if at % 2:
            renamed[f"backbone.layers.{at // 2}.downsample.{rest}"] = tensor
        else:
            rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
            renamed[f"backbone.layers.{at // 2}.blocks.{rest}"] = tensor
    return renamed
