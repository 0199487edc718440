"""What activation checkpointing saves and costs: `python benchmarks/activation_checkpointing.py [REPEATS]`.

Swin-T, forward and backward, fp32, both streams, with and without, alternating in one process; medians.
"""

import sys
from collections.abc import Callable

import torch

from bevt_core.bench.models import alternate, peak_bytes
from bevt_core.models.build import SWIN_SIZES, build_bevt
from trainer.setup.models import checkpoint_activations

CLIPS = {"video": (1, 3, 16, 224, 224), "image": (4, 3, 1, 224, 224)}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for stream, shape in CLIPS.items():
        torch.manual_seed(0)
        clip_BCTHW = torch.randn(shape)
        models = [build_bevt(**SWIN_SIZES["tiny"], vocab_size=32).eval() for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        checkpoint_activations(models[1])

        def step(model: torch.nn.Module, clip_BCTHW: torch.Tensor = clip_BCTHW, stream: str = stream) -> None:
            model.zero_grad(set_to_none=False)
            model.features(clip_BCTHW, None, stream).square().mean().backward()

        steps: list[Callable[[], None]] = [lambda m=model: step(m) for model in models]
        plain_s, checkpointed_s = alternate(steps, repeats)
        plain_bytes, checkpointed_bytes = (peak_bytes(run) for run in steps)
        gradients = [[p.grad for p in model.parameters() if p.grad is not None] for model in models]
        worst = max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*gradients, strict=True) if a.any())
        print(
            f"{stream}: {checkpointed_s / plain_s:.2f} x the time ({plain_s:.2f} s without), "
            f"{checkpointed_bytes / plain_bytes:.2f} x the memory, gradients {worst:.1e} apart",
            flush=True,
        )


if __name__ == "__main__":
    main()
