"""Frames per second of the DALL-E encoder with random weights, and the share of ids that equal float32's.

The share under trained weights may differ: how many near ties there are depends on them.
"""

import statistics
import time

import torch
from common import attempt, step
from step_sizes import TOKENIZER_DTYPES, random_tokenizer

from bevt_core.bench.timing import synchronize
from bevt_core.tokenizers import load_tokenizer


def main() -> None:
    with step("tokenizer") as (options, result):
        folder = random_tokenizer(options)
        count, rounds = (32, 1) if options.tiny else (1024, 5)
        reference = None
        for dtype in TOKENIZER_DTYPES:

            def measure(dtype: str = dtype) -> dict:
                nonlocal reference
                tokenizer = load_tokenizer(folder, options.device, dtype)
                side = tokenizer.input_px
                generator = torch.Generator().manual_seed(0)
                coarse = torch.randint(256, (count, side // 8, side // 8, 3), dtype=torch.uint8, generator=generator)
                frames_NPPC = coarse.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
                ids_Nhw, seconds = tokenizer.encode(frames_NPPC).cpu(), []
                for _ in range(rounds):
                    begun = time.perf_counter()
                    tokenizer.encode(frames_NPPC)
                    synchronize(options.device)
                    seconds.append(time.perf_counter() - begun)
                reference = ids_Nhw if reference is None else reference
                return {
                    "frames_per_s": count / statistics.median(seconds),
                    "ids_equal_share": (ids_Nhw == reference).double().mean().item(),
                }

            result.add(attempt({"dtype": dtype}, measure))


if __name__ == "__main__":
    main()
