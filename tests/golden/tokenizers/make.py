"""Run the original code of a published tokenizer at a small size and write what it computes to NAME.npz.

    python -m tests.golden.tokenizers.make NAME CHECKOUT

CHECKOUT is a clone of the repository in ORIGINALS; einops must be on the PYTHONPATH. The original's classes are used
unchanged; what only training needs (Lightning, losses, CLIP) is replaced by empty modules. README.md describes the
files.
"""

import contextlib
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.published_weights import made_frames, made_state

SEED_VOKEN = "b9a17eac8e2c0779c12a5429b0bfd6c502788484"
HERE = Path(__file__).parent
FRAMES, DRAWN = 3, 5  # frames; every fifth row and column of the pictures is kept


def stub(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


class Loss(nn.Module):
    """In place of the losses: one weight, so that the key map has something to drop."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = nn.Linear(2, 2)


def stub_training() -> None:
    for name in ("pytorch_lightning", "lightning"):
        stub(name, LightningModule=nn.Module)
    stub("main", instantiate_from_config=lambda config: Loss())


def vqkd(checkout: Path) -> tuple[nn.Module, int, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    sys.path.insert(0, str(checkout / "beit2"))
    stub("utils")
    stub("vqkd_teacher", clip=None, get_dino_vit_base=None)
    code = importlib.import_module("modeling_vqkd")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}
    encoder = code.get_model_default_params() | sizes
    decoder = encoder | {"img_size": 4, "patch_size": 1, "in_chans": 8, "depth": 1}
    model = code.VQKD(encoder, decoder, n_embed=64, embed_dim=8, teacher_model_type="None")

    def run(unit: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        kept = []
        handle = model.quantize.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
        ids = model.get_codebook_indices(unit)
        handle.remove()
        return ids, kept[0], None

    return model, 32, run


DDCONFIG = {  # as in the published configurations, but for the sizes
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "z_channels": 16,
    "resolution": 32,
}


def vqgan(checkout: Path) -> tuple[nn.Module, int, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    sys.path.insert(0, str(checkout))
    stub_training()
    code = importlib.import_module("taming.models.vqgan")
    sizes = DDCONFIG | {"num_res_blocks": 2, "attn_resolutions": [8]}
    model = code.VQModel(sizes, {}, n_embed=64, embed_dim=8)
    return model, 32, lambda unit: run_vq(model, unit)


def llamagen(checkout: Path) -> tuple[nn.Module, int, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    sys.path.insert(0, str(checkout))
    code = importlib.import_module("tokenizer.tokenizer_image.vq_model")
    sizes = {"ch": 32, "ch_mult": [1, 1, 2], "z_channels": 16}
    model = code.VQModel(code.ModelArgs(codebook_size=64, z_channels=16))
    model.encoder, model.decoder = code.Encoder(**sizes), code.Decoder(**sizes)  # whose `ch` is not in ModelArgs
    return model, 32, lambda unit: run_vq(model, unit)


def ibq(checkout: Path) -> tuple[nn.Module, int, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    sys.path.insert(0, str(checkout))
    stub_training()
    code = importlib.import_module("src.IBQ.models.ibqgan")
    sizes = DDCONFIG | {"num_res_blocks": 3, "attn_resolutions": [8]}
    model = code.IBQ(sizes, {}, n_embed=64, embed_dim=8, use_ema=True)
    return model, 32, lambda unit: run_vq(model, unit)


def magvit2(checkout: Path) -> tuple[nn.Module, int, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    sys.path.insert(0, str(checkout))
    stub_training()
    code = importlib.import_module("src.Open_MAGVIT2.models.lfqgan_pretrain")
    sizes = DDCONFIG | {"num_res_blocks": 2, "z_channels": 6}
    weights = {"sample_minimization_weight": 1.0, "batch_maximization_weight": 1.0}
    model = code.VQModel(sizes, {}, n_embed=64, embed_dim=6, use_ema=True, **weights)

    def run(unit: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        with model.ema_scope():
            pixels = 2 * unit - 1
            codes, _, ids, _ = model.encode(pixels)
            return ids, model.encoder(pixels), model.decode(codes)

    return model, 32, run


def run_vq(model: Any, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, the vectors before the quantizer, and pictures, with the averaged weights if the model has any."""
    scope = model.ema_scope() if getattr(model, "use_ema", False) else contextlib.nullcontext()
    with scope:
        pixels = 2 * unit - 1
        vectors = model.quant_conv(model.encoder(pixels))
        codes, _, (_, _, ids) = model.encode(pixels)
        return ids, vectors, model.decode(codes)


ORIGINALS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ibq": (f"TencentARC/SEED-Voken@{SEED_VOKEN}", ibq),
    "llamagen": ("FoundationVision/LlamaGen@ce98ec41803a74a90ce68c40ababa9eaeffeb4ec", llamagen),
    "magvit2": (f"TencentARC/SEED-Voken@{SEED_VOKEN}", magvit2),
    "vqgan": ("CompVis/taming-transformers@3ba01b241669f5ade541ce990f7650a3b8f65318", vqgan),
    "vqkd": ("microsoft/unilm@768a3c873f598bb9b4d4dfb9267b099e35f8fe56", vqkd),
}


@torch.no_grad()
def make(name: str, checkout: Path) -> None:
    repository, build = ORIGINALS[name]
    model, size_px, run = build(checkout)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items() if value.is_floating_point()}
    state = made_state(shapes)
    if "quantize.embedding.initted" in state:  # a flag of VQ-KD: the codebook is not initialised from the first batch
        state["quantize.embedding.initted"] = torch.ones(1)
    model.load_state_dict(state, strict=False)
    model.eval()
    frames = made_frames(FRAMES, size_px)
    ids, vectors_NDhw, drawn_NCHW = run(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
    grid = vectors_NDhw.shape[2:]
    arrays = {
        "source": np.array(json.dumps({"repository": repository, "size_px": size_px, "shapes": shapes})),
        "ids": ids.reshape(FRAMES, *grid).numpy().astype(np.uint16),
        "vectors": vectors_NDhw.permute(0, 2, 3, 1).numpy(),
    }
    if drawn_NCHW is not None:
        arrays["drawn"] = drawn_NCHW[:, :, ::DRAWN, ::DRAWN].numpy()
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    print(name, "ids", len(np.unique(arrays["ids"])), "vectors", float(np.abs(arrays["vectors"]).mean()))


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
