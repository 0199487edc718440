"""Loading a checkpoint's whole tensors into an optimizer."""

import torch
from torch import nn

from trainer.distributed.sharding import lay_out_state, unsharded


def test_an_optimizer_takes_up_where_another_stopped_whatever_the_memory_format() -> None:
    """Fused kernels walk through memory: state with strides unlike its parameter's would be paired wrongly."""

    def start() -> tuple[nn.Conv2d, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def step(layer: nn.Conv2d, optimizer: torch.optim.AdamW, seed: int) -> None:
        optimizer.zero_grad()
        layer(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    (straight, optimizer), (resumed, fresh) = start(), start()
    step(straight, optimizer, 1)
    resumed.load_state_dict(straight.state_dict())
    fresh.load_state_dict(lay_out_state(unsharded(optimizer.state_dict()), fresh))
    step(straight, optimizer, 2), step(resumed, fresh, 2)
    assert torch.equal(straight.weight, resumed.weight)
