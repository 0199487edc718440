"""On a CPU, gradients have the same bits in every run, with any number of threads.

PyTorch adds with atomic operations, in the order in which threads arrive, where a gradient flows through indexing by a
tensor; `index_select` and `embedding` add in a fixed order.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bevt_core.masking import hidden_positions
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.tokenizers.dvae.family import DvaeSizes, PatchSizes
from bevt_core.tokenizers.dvae.training import DvaeTrainingModule
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.peco.tokenizer import PecoTrainingModule

NANO = SWIN_SIZES["nano"]
TIMESFORMER = {"encoder": "timesformer", "embed_dim": 24, "depth": 2, "num_heads": 2, "grid": (8, 4, 4)}
ATOMIC = {"index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put", "scatter_add", "scatter_add_", "put_"}


class NoAtomicAdditions(TorchDispatchMode):
    """Raises if an operator adds numbers with atomic operations."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ATOMIC:
            raise AssertionError(f"{func} adds in the order of the threads")
        return func(*args, **(kwargs or {}))


def pretrain(**sizes: Any) -> Tensor:
    model = build_bevt(**sizes, vocab_size=16)
    mask = torch.rand(1, 8 // sizes.get("patch", (1, 16, 16))[0], 4, 4) < 0.5
    tokens = torch.randint(16, (1, 8, 4, 4))
    video = model.masked_loss_sum(torch.randn(1, 3, 8, 64, 64), tokens, mask, hidden_positions(mask, 8), "video")
    image_mask = mask[:, :1]
    image = model.masked_loss_sum(
        torch.randn(1, 3, 1, 64, 64), tokens[:, :1], image_mask, hidden_positions(image_mask, 1), "image"
    )
    return video.loss_sum + image.loss_sum


def classify(**sizes: Any) -> Tensor:
    return build_classifier(**sizes, num_classes=3)(torch.randn(1, 3, 8, 64, 64)).sum()


def frames(size_px: int) -> Tensor:
    return torch.randint(256, (4, size_px, size_px, 3), dtype=torch.uint8)


def train_dvae(sizes: DvaeSizes | PatchSizes) -> Tensor:
    module = DvaeTrainingModule(sizes, "mse")
    loss: Tensor = module(frames(16), 1.0, 1.0, guide_weight=1.0)["loss"]
    return loss


def train_peco() -> Tensor:
    out = PecoTrainingModule(PecoSizes(width=8, multipliers=(1, 1), blocks=1, vocab_size=16, code_dim=8))(frames(16))
    return (out.decoded_NCHW - out.unit_NCHW).square().mean() + out.commitment


STEPS: dict[str, Callable[[], Tensor]] = {
    "Swin": lambda: pretrain(**NANO),
    "Swin, large windows": lambda: pretrain(**{**NANO, "window": (4, 8, 8), "patch": (1, 8, 8)}),
    "TimeSformer": lambda: pretrain(**TIMESFORMER),
    "Swin classifier": lambda: classify(**NANO),
    "TimeSformer classifier": lambda: classify(**TIMESFORMER),
    "dVAE": lambda: train_dvae(DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=8, vocab_size=16)),
    "dVAE of patches": lambda: train_dvae(PatchSizes(width=8, blocks=1, vocab_size=16)),
    "PeCo": train_peco,
}


@pytest.mark.parametrize("name", STEPS)
def test_no_gradient_is_added_in_the_order_of_the_threads(name: str) -> None:
    loss = STEPS[name]()
    with NoAtomicAdditions():
        loss.backward()


def test_the_check_finds_indexing() -> None:
    table = torch.randn(4, 2, requires_grad=True)
    loss = table[torch.tensor([0, 1, 1])].sum()
    with pytest.raises(AssertionError, match="order of the threads"), NoAtomicAdditions():
        loss.backward()


TWO_THREADS = """
import hashlib, torch
from bevt_core.models.build import SWIN_SIZES, build_classifier
torch.set_num_threads(2)
torch.manual_seed(0)
model = build_classifier(**{**SWIN_SIZES["nano"], "patch": (2, 4, 4)}, num_classes=3)
clip, label = torch.randn(1, 3, 8, 112, 112), torch.zeros(1, dtype=torch.long)
digests = set()
for _ in range(4):
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(clip), label).backward()
    digests.add(hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in model.parameters())).hexdigest())
print(len(digests))
"""


def test_two_threads_give_the_same_gradients_every_time() -> None:
    found = subprocess.run([sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.strip() == "1"
