"""The model against golden numbers of the original implementation, in fp32 and bf16, for each attention."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from common import ATTENTIONS, REPO, Options, attempt, step
from torch import Tensor

from bevt_core.models.bevt import Bevt
from bevt_core.models.swin import use_attention
from bevt_core.models.window_attention import triton_op
from bevt_core.weights.model_files import import_official
from bevt_core.weights.other_projects import OFFICIAL_KEYS
from bevt_core.weights.surgery import rename

ORACLE = REPO / "tests" / "golden" / "oracle"
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}
# What may differ: features and losses absolutely, norms of gradients relatively: each parameter's, and all together.
# fp32 as on a CPU, where bf16 differed by 0.05, 3e-4 and 0.004, and norms of gradients near zero by half.
LIMITS = {
    "fp32": {"features": 1e-4, "loss": 1e-5, "each_grad_norm": 1e-3, "all_grad_norms": 1e-3},
    "bf16": {"features": 0.15, "loss": 2e-3, "all_grad_norms": 0.02},
}


def main() -> None:
    with step("parity") as (options, result):
        golden = np.load(ORACLE / "official_tiny.npz")
        model = import_official(ORACLE / "official_tiny.safetensors").model.to(options.device).eval()
        head_dim = model.config["embed_dim"] // model.config["num_heads"][0]
        torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits
        for precision in AUTOCAST:
            for attention in ("math", "cpu") if options.device.type == "cpu" else ATTENTIONS:
                row: dict[str, Any] = {"precision": precision, "attention": attention}
                dtype = AUTOCAST[precision] or torch.float32
                if attention == "triton" and not triton_op.supported(options.device, dtype, head_dim):
                    result.add(row | {"skipped": f"no Triton kernel for {precision} on this device"})
                    continue
                use_attention(model, attention)
                result.add(attempt(row, lambda p=precision: compared(model, golden, p, options)))
        bad = [row for row in result.content["rows"] if row.get("within_limits") is False or "error" in row]
        result.set(limits=LIMITS, all_within_limits=not bad)


def compared(model: Bevt, golden: Mapping[str, np.ndarray], precision: str, options: Options) -> dict[str, Any]:
    """Return the largest differences, and whether all are within the limits."""
    dtype = AUTOCAST[precision]
    frames = int(golden["T"])
    video = wave(golden["video_step"], (2, 3, frames, 224, 224), options)
    image = wave(golden["image_step"], (3, 3, 1, 224, 224), options)
    masks = {"video": golden["video_mask"], "image": golden["image_mask"][:, None]}
    tokens = {"video": golden["video_tokens"], "image": golden["image_tokens"][:, None]}
    differences = {"features": 0.0, "loss": 0.0, "each_grad_norm": 0.0, "all_grad_norms": 0.0}
    model.zero_grad()
    with torch.autocast(options.device.type, dtype, enabled=dtype is not None):
        losses = []
        for stream, clip, every, loss in (("video", video, 37, "loss_mvm"), ("image", image, 13, "loss_mim")):
            mask = torch.from_numpy(masks[stream]).to(options.device)
            targets = torch.from_numpy(tokens[stream].astype(np.int64)).to(options.device)
            with torch.no_grad():
                features = model.features(clip, mask, stream=stream)[:, ::every].float().cpu().numpy()
            worst = np.abs(features - golden[f"{stream}_features"]).max()
            differences["features"] = max(differences["features"], float(worst))
            losses.append(model.loss(clip, targets, mask, stream=stream))
            differences["loss"] = max(differences["loss"], abs(losses[-1].item() - golden[loss].item()))
    torch.stack(losses).sum().backward()
    norms = {name: torch.tensor(norm) for name, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True)}
    expected = rename(norms, OFFICIAL_KEYS, dropped="$^", source="the oracle").state
    got_P, expected_P = [], []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        got_P.append(parameter.grad.norm().item())
        expected_P.append(expected[name].item())
    got, true = np.array(got_P), np.array(expected_P)
    differences["each_grad_norm"] = float(np.abs(got / true - 1).max())
    differences["all_grad_norms"] = float(np.linalg.norm(got - true) / np.linalg.norm(true))
    limits = LIMITS[precision]
    return {**differences, "within_limits": all(differences[key] <= limits[key] for key in limits)}


def wave(by: np.ndarray, shape: tuple[int, ...], options: Options) -> Tensor:
    """The oracle's inputs: sin(i * by) in float64, then float32."""
    values = np.sin(np.arange(math.prod(shape), dtype=np.float64) * float(by)).astype(np.float32)
    return torch.from_numpy(values).view(shape).to(options.device)


if __name__ == "__main__":
    main()
