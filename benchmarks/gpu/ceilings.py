"""The two rates that nothing can exceed: copying memory, and a large bf16 product."""

import torch
from common import step

from bevt_core.bench.timing import timed_ms


def main() -> None:
    with step("ceilings") as (options, result):
        numbers = 2**20 if options.tiny else 2**31  # of bf16: 4 GiB
        source = torch.empty(numbers, dtype=torch.bfloat16, device=options.device).normal_()
        target = torch.empty_like(source)
        (copy_ms,) = timed_ms([lambda: target.copy_(source)], options.device)
        result.set(copy_gb_per_s=2 * 2 * numbers / copy_ms / 1e6)  # bytes read and bytes written

        side = 256 if options.tiny else 8192
        a, b = (torch.randn(side, side, device=options.device, dtype=torch.bfloat16) for _ in range(2))
        (product_ms,) = timed_ms([lambda: a @ b], options.device)
        result.set(matmul_tflops=2 * side**3 / product_ms / 1e9, matmul_side=side)


if __name__ == "__main__":
    main()
