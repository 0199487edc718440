"""Averaged weights in checkpoints of Lightning projects: `LitEma` stores them under the names without their dots."""

from collections.abc import Mapping

from torch import Tensor

from bevt_core.weights.surgery import StateDict
from schemas.errors import UserError

PREFIX = "model_ema."
COUNTERS = (f"{PREFIX}decay", f"{PREFIX}num_updates")


def averaged(state: Mapping[str, Tensor], training: str) -> StateDict:
    """Replace each tensor by its average, and drop the averages; a checkpoint without averages is unchanged.

    Tensors of the module `training`, which the model does not need, may lack an average, and averages of it a tensor.
    Raises UserError for any other tensor without an average, for an average of no tensor, and for one of another shape.
    """
    averages = {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    for counter in COUNTERS:
        averages.pop(counter.removeprefix(PREFIX), None)
    own = {key: tensor for key, tensor in state.items() if not key.startswith(PREFIX)}
    if not averages:
        return own
    replaced: StateDict = {}
    for key, tensor in own.items():
        average = averages.pop(key.replace(".", ""), None)
        if average is None and not key.startswith(f"{training}."):
            raise UserError(f"{key}: has no average {PREFIX}{key.replace('.', '')}, though others have one")
        if average is not None and average.shape != tensor.shape:
            raise UserError(f"{key}: its average has the shape {tuple(average.shape)}, expected {tuple(tensor.shape)}")
        replaced[key] = tensor if average is None else average
    averages = {key: tensor for key, tensor in averages.items() if not key.startswith(training)}
    if averages:
        raise UserError(f"{PREFIX}{min(averages)}: the average of no tensor in the checkpoint")
    return replaced
