"""CUDA without a GPU: tensors that have shapes and devices but no numbers, and a watch for what a GPU cannot do or
should not have to wait for."""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 7)  # the last that fakes may have: constants kept by device stay apart from real ones
# Inference mode shows operators before they are taken apart: `matmul`, `linear`, `to`.
PRODUCTS = {"mm", "mv", "bmm", "addmm", "addmv", "baddbmm", "addbmm", "dot", "_int_mm", "matmul", "linear"}
WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero"}


class Watch(TorchDispatchMode):
    """Collect `faults`: operators that CUDA does not have, that wait for the device, or that mix devices."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.pinned: set[int] = set()  # storages
        self.copies: list[str] = []  # between the CPU and the device

    def pin(self, tensor: Tensor) -> Tensor:
        """Stand in for `Tensor.pin_memory`."""
        self.pinned.add(tensor.untyped_storage()._cdata)
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_cuda = [x for x in tensors if x.device.type == "cuda"]
        if name in PRODUCTS and on_cuda and not on_cuda[0].dtype.is_floating_point:
            self.faults.append(f"{name}: a product of {on_cuda[0].dtype} matrices")
        if name in WAITS and on_cuda:
            self.faults.append(f"{name}: the host waits for the device")
        if name in {"index", "index_put", "index_put_"} and any(x.dtype == torch.bool for x in on_cuda[1:]):
            self.faults.append(f"{name}: the host waits for the number of True")
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        if name == "empty" and given.get("pin_memory"):
            self.pin(result)
        if name in {"to", "_to_copy", "copy_"}:
            self._copy(name, tensors[1] if name == "copy_" else tensors[0], result, bool(given.get("non_blocking")))
        return result

    def _copy(self, name: str, source: Tensor, result: Tensor, later: bool) -> None:
        if source.device.type == result.device.type:
            return
        to_device = result.device.type == "cuda"
        self.copies.append("to the device" if to_device else "from the device")
        if not later:
            self.faults.append(f"{name}: the host waits for a copy {self.copies[-1]}")
        elif to_device and source.untyped_storage()._cdata not in self.pinned and source.numel():
            self.faults.append(f"{name}: a copy of {tuple(source.shape)} from memory that is not pinned")
        elif name == "copy_" and not to_device and result.untyped_storage()._cdata not in self.pinned:
            self.faults.append(f"{name}: a copy of {tuple(source.shape)} to memory that is not pinned")


@contextlib.contextmanager
def fake_cuda() -> Iterator[Watch]:
    """Tensors on CUDA are fake inside; `backward`, pinned memory and events work without a GPU."""
    watch = Watch()
    with (
        FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()),
        mock.patch.object(Tensor, "backward", lambda loss: backward(loss)),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: watch.pin(tensor)),
        mock.patch.object(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor),  # it looks at what it has drawn
        mock.patch.object(torch.cuda, "Event", mock.MagicMock),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_: True),
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        watch,
    ):
        yield watch


def backward(loss: Tensor) -> None:
    """Run the backward pass of a scalar node by node: the engine itself would ask for a real device."""
    assert loss.grad_fn is not None
    waiting = _edges_into(loss.grad_fn)
    grads: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        inputs = grads.pop(node, None)
        if hasattr(node, "variable"):
            _accumulate(node.variable, inputs)
            continue
        outputs: Any = (None,) * len(node.next_functions)
        if inputs is not None and any(grad is not None for grad in inputs):
            outputs = _call(node, inputs)
        for (following, number), grad in zip(node.next_functions, outputs, strict=True):
            if following is None:
                continue
            if grad is not None:
                grad = _as_the_engine_does(grad, following._input_metadata[number])
                slots = grads.setdefault(following, [])
                slots.extend([None] * (number + 1 - len(slots)))
                slots[number] = grad if slots[number] is None else slots[number] + grad  # type: ignore[operator]
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def _call(node: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    metadata = node._input_metadata
    filled = [*grads, *[None] * (len(metadata) - len(grads))]
    if hasattr(node, "apply"):  # a torch.autograd.Function of Python's gets zeros for what has no gradient
        filled = [
            torch.zeros(tuple(meta.shape), dtype=meta.dtype, device=meta.device) if grad is None else grad
            for grad, meta in zip(filled, metadata, strict=True)
        ]
    outputs = (node.apply if hasattr(node, "apply") else node)(*filled)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(grad is None for grad in outputs[len(node.next_functions) :])
    return outputs[: len(node.next_functions)]  # inputs that are no tensors come last, and have no edge


def _as_the_engine_does(grad: Tensor, meta: Any) -> Tensor:
    """Sum over broadcast axes and cast to what the forward pass had."""
    assert grad.device == meta.device, f"a gradient on {grad.device} of a tensor on {meta.device}"
    grad = grad if tuple(grad.shape) == tuple(meta.shape) else grad.sum_to_size(tuple(meta.shape))
    return grad.to(meta.dtype)


def _accumulate(variable: Tensor, inputs: list[Tensor | None] | None) -> None:
    if inputs is None or inputs[0] is None:
        return
    (grad,) = inputs
    assert grad is not None and grad.device == variable.device, f"{grad} for {variable.device}"
    assert grad.shape == variable.shape, (grad.shape, variable.shape)
    variable.grad = grad.to(variable.dtype) if variable.grad is None else variable.grad + grad


def _edges_into(root: Any) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    seen, stack = {root}, [root]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is None:
                continue
            counts[following] += 1
            if following not in seen:
                seen.add(following)
                stack.append(following)
    return counts


def on_cuda(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Build a model with its parameters on CUDA."""
    with torch.device(CUDA):
        return build()
