"""One model on several processes: a replica each (DDP), or a shard each (FSDP2).

Checkpoints contain whole tensors in both cases, so a resumed run may switch between them and change the number of
processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.distributed.ema import WithAverage
from trainer.distributed.world import World

METHODS = ("predict", "pooled")  # called by hooks and evaluations besides `forward`
BLOCK_VARIANTS = 64  # compiled variants of a block: stages x shifted or not x streams x training or not, with a margin


def replicate(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every block of the encoders separately, in place; blocks of the same shape share the compiled code.

    Each batch size is compiled separately: symbolic sizes take several times as long to compile and give slower code.
    """
    import torch._dynamo  # takes a second to import, and only compiled models need it

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, BLOCK_VARIANTS)
    for block in _blocks(model):
        block.compile(backend=backend, dynamic=False)


def shard(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Shard parameters, gradients and optimizer of `model` over all processes, block by block, in place.

    Parameters stay in fp32 and autocast chooses the precision, as with DDP, so both compute the same numbers.
    """
    from torch.distributed.device_mesh import init_device_mesh  # takes a second to import, and only sharding needs it
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(world.device.type, (world.size,))
    roots = [model.model, model.average] if isinstance(model, WithAverage) else [model]
    for root in roots:
        for block in _blocks(root):
            fully_shard(block, mesh=mesh)
        # the backward pass reshards the outermost parameters, but the average has no backward pass
        is_average = isinstance(model, WithAverage) and root is model.average
        fully_shard(root, mesh=mesh, reshard_after_forward=is_average)
        for method in METHODS:
            if hasattr(root, method):
                register_fsdp_forward_method(root, method)
    sharded = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [sharded[name] for name in group["names"]]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the innermost items of the model's ModuleLists: the encoder's blocks."""
    items = [item for module in model.modules() if isinstance(module, nn.ModuleList) for item in module]
    return [item for item in items if not any(isinstance(inner, nn.ModuleList) for inner in item.modules())]


def reduce_gradients(model: nn.Module, *, now: bool) -> None:
    """Set whether the next backward pass of a sharded model reduces the gradient, or leaves that to a later one."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now, recurse=False)


def parts_of_rank(parts: Sequence[int], model: nn.Module, world: World) -> Sequence[int]:
    """Return the parts that this rank computes: all if `model` is sharded, as its forward pass needs all ranks."""
    return parts if is_sharded(model) else parts[world.rank :: world.size]


def is_sharded(model: nn.Module) -> bool:
    """Return whether the model is sharded over processes, so that each forward pass needs all of them."""
    return any(is_shard(parameter) for parameter in model.parameters())


def is_shard(tensor: Tensor) -> bool:
    """Return whether this is one process's shard of a tensor (DTensor)."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def unsharded(value: Any) -> Any:
    """Copy a nested value to the CPU, sharded tensors assembled; if it has any, every process must call this."""
    if isinstance(value, Tensor):
        local = value.full_tensor() if is_shard(value) else value  # type: ignore[attr-defined]
        return local.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: unsharded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(unsharded(item) for item in value)
    return value


@torch.no_grad()
def lay_out_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Lay out the whole tensors of an optimizer's `state` like its parameters: sharded alike, with the same strides.

    Fused optimizers walk through memory, and would pair wrong numbers if strides differed.
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
    """Return this process's shard of `value`, sharded like `parameter`."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
