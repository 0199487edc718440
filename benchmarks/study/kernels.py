"""Start weights of BEVT whose video stem got the image kernel in another way than by the published inflation.

`python benchmarks/study/kernels.py IMAGE_RUN OUT --kernel centre|noise --seed 0` writes OUT/weights.safetensors.
"""

import argparse
from pathlib import Path

import torch

from bevt_core.models.build import build_bevt
from bevt_core.weights.model_files import load_weights, save_weights
from trainer.setup.start_from import start_from

NOISE = 0.1  # standard deviations of the inflated kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image_run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kernel", choices=("centre", "noise"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = load_weights(options.image_run / "weights.safetensors").config
    sizes = {key: value for key, value in config.items() if key not in ("kind", "streams")}
    model = build_bevt(**sizes, streams=("video", "image"))
    start_from(model, str(options.image_run))
    kernel_CctHW = model.stems["video"].proj.weight.data
    if options.kernel == "centre":
        whole_CcHW = kernel_CctHW.sum(2)
        kernel_CctHW.zero_()
        kernel_CctHW[:, :, kernel_CctHW.shape[2] // 2] = whole_CcHW
    else:
        kernel_CctHW += NOISE * kernel_CctHW.std() * torch.randn_like(kernel_CctHW)
    options.out.mkdir(parents=True, exist_ok=True)
    save_weights(options.out / "weights.safetensors", model)


if __name__ == "__main__":
    main()
