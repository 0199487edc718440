"""The sizes of a measured training step, and the tokenizer that may be in it."""

from pathlib import Path
from typing import Any

import torch
from common import Options

from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.networks import build_encoder, to_package_state
from bevt_core.tokenizers.weights_files import save_tokenizer

TOKENIZER_DTYPES = ("float32", "tf32", "bfloat16")


def sizes_of(options: Options, clips: int, images: int) -> dict[str, Any]:
    """Return arguments of `bench_train_step`: Swin-B at the paper's sizes, or a toy."""
    sizes = {"clips": clips, "images": images, "device": options.device.type}
    if options.tiny:
        return {**sizes, "size": "nano", "frames": 4, "size_px": 64, "repeats": 2}
    return {**sizes, "size": "base", "repeats": 8}


def random_tokenizer(options: Options) -> Path:
    """Return the folder of a DALL-E encoder with random weights, made once: at its published size, or a toy."""
    folder = options.work / "random-dalle"
    if not folder.is_dir():
        torch.manual_seed(0)
        sizes = DvaeSizes(n_hid=8, n_blk_per_group=1) if options.tiny else DvaeSizes()
        state = to_package_state(build_encoder(sizes))
        input_px = 64 if options.tiny else 112
        save_tokenizer(folder, state, None, kind="dalle", sizes=sizes, input_px=input_px, origin={"weights": "random"})
    return folder
