"""How several processes hold one model: a replica each (DDP), or a shard each (FSDP2).

A checkpoint has whole tensors under either, so a run may change between them, and the number of processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.distributed.ema import WithAverage
from trainer.distributed.world import World

METHODS = ("predict", "pooled")  # of a model, that hooks call beside `forward`
BLOCK_VARIANTS = 64  # of a block's code: stages x shifted or not x streams x training or not, with room


def replicate(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Have every block of the encoders compiled by itself, in place: blocks of one shape share the compiled code.

    Each size of a batch is compiled anew; symbolic sizes take several times as long and give slower code.
    """
    import torch._dynamo  # a second to import, and needed by compiled models alone

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, BLOCK_VARIANTS)
    for block in _blocks(model):
        block.compile(backend=backend, dynamic=False)


def shard(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Shard parameters, gradients and optimizer of `model` over all processes, block by block, in place.

    Parameters stay in fp32 and autocast chooses the precision, as under DDP, so both compute the same.
    """
    from torch.distributed.device_mesh import init_device_mesh  # a second to import, and needed by shards alone
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(world.device.type, (world.size,))
    roots = [model.model, model.average] if isinstance(model, WithAverage) else [model]
    for root in roots:
        for block in _blocks(root):
            fully_shard(block, mesh=mesh)
        # a backward pass shards the outermost parameters again, but the average has none
        is_average = isinstance(model, WithAverage) and root is model.average
        fully_shard(root, mesh=mesh, reshard_after_forward=is_average)
        for method in METHODS:
            if hasattr(root, method):
                register_fsdp_forward_method(root, method)
    sharded = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [sharded[name] for name in group["names"]]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The innermost items of the model's lists: the encoder's blocks."""
    items = [item for part in model.modules() if isinstance(part, nn.ModuleList) for item in part]
    return [item for item in items if not any(isinstance(inner, nn.ModuleList) for inner in item.modules())]


def reduce_gradients(model: nn.Module, *, now: bool) -> None:
    """Say whether the next backward pass of a sharded model reduces the gradient, or leaves it for a later one."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now, recurse=False)


def share_of_rank(parts: Sequence[int], model: nn.Module, world: World) -> Sequence[int]:
    """Return the parts that this rank does: all where `model` is sharded, since its forward pass takes all ranks."""
    return parts if is_sharded(model) else parts[world.rank :: world.size]


def is_sharded(model: nn.Module) -> bool:
    """Do the processes hold shards of the model, so that each forward pass takes all of them?"""
    return any(is_shard(parameter) for parameter in model.parameters())


def is_shard(tensor: Tensor) -> bool:
    """Is this a process's part of a tensor (DTensor)?"""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def whole(value: Any) -> Any:
    """Copy a nested value to the CPU, shards put together; with shards in it, every process calls this."""
    if isinstance(value, Tensor):
        local = value.full_tensor() if is_shard(value) else value  # type: ignore[attr-defined]
        return local.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


@torch.no_grad()
def fit_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Lay out the whole tensors of an optimizer's `state` as its parameters are: cut for shards, with the same strides.

    Fused optimizers walk through memory, and would pair up wrong numbers where strides differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def laid_out(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        if is_shard(parameter):
            return _cut(value, parameter)
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    state_of = {
        index: {key: laid_out(value, parameters[index]) for key, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": state_of}


def _cut(value: Tensor, parameter: Any) -> Tensor:
    """The process's part of `value`, cut as `parameter` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
