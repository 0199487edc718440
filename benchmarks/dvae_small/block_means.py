"""What a tokenizer without codes would reach: `python benchmarks/dvae_small/block_means.py STORE`.

The frames of a store, as `bevt tokenizer info` prepares them for `dvae-small`, with every 8x8 px block replaced by its
mean colour and these means enlarged again.
"""

import argparse
from pathlib import Path

import numpy as np
from torch.nn import functional as F

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.tokenizers.base import to_uint8, to_unit
from bevt_core.tokenizers.inspection import prepared, sampled_frames
from bevt_core.tokenizers.quality import mean_squared_error, psnr_db
from bevt_core.views.replay import halve

INPUT_PX, BLOCK_PX = 112, 8
MAX_FRAMES = 1024  # the default of `bevt tokenizer info`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    frames_NHWC = prepared(sampled_frames(FrameStore(parser.parse_args().store), MAX_FRAMES), INPUT_PX, halve)
    means_NChw = F.avg_pool2d(to_unit(frames_NHWC), BLOCK_PX)
    for mode in ("bilinear", "bicubic"):
        enlarged_NHWC = to_uint8(F.interpolate(means_NChw, scale_factor=BLOCK_PX, mode=mode))
        errors = [mean_squared_error(a, b) for a, b in zip(frames_NHWC.numpy(), enlarged_NHWC.numpy(), strict=True)]
        mean_db = np.mean([psnr_db(error) for error in errors])
        print(f"{mode}: psnr_db {mean_db:.2f}, psnr_pooled_db {psnr_db(float(np.mean(errors))):.2f}")


if __name__ == "__main__":
    main()
