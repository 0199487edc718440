"""Loading of stored tokenizers: their weights are read and checked here, and the family builds the tokenizer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.description import (
    DECODER,
    DESCRIPTION,
    ENCODER,
    StoredTokenizer,
    check_device,
    read_description,
)
from bevt_core.tokenizers.families import family_of, named_object
from bevt_core.tokenizers.precision import parse_dtype
from bevt_core.tokenizers.weights_files import read_state
from schemas.errors import UserError

SHOWN_PROBLEMS = 3  # with tensors, in a message

S = TypeVar("S")
N = TypeVar("N", bound=nn.Module)


class Weights(NamedTuple):
    """A tokenizer's stored tensors by name, float32; `decoder` is None if it was stored without one."""

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] | None


def load_stored(folder: Path, device: str | torch.device, dtype: str, pass_frames: int | None) -> Tokenizer:
    """Load the tokenizer in `folder`; `pass_frames` None means the device's default.

    Raises UserError if its files do not match its description, for an unknown dtype, and for settings that the device
    does not support.
    """
    stored, device = read_description(folder), torch.device(device)
    parse_dtype(dtype)
    check_device(device.type, dtype, pass_frames)
    with _weights_match_description(folder):
        encoder = read_state(folder, ENCODER, stored.encoder_sha256)
        decoder = None if stored.decoder_sha256 is None else read_state(folder, DECODER, stored.decoder_sha256)
        return build_tokenizer(stored, Weights(encoder, decoder), device, dtype, pass_frames)


def build_tokenizer(
    stored: StoredTokenizer, weights: Weights, device: torch.device, dtype: str, pass_frames: int | None
) -> Tokenizer:
    """Build the tokenizer that `stored` describes from its weights; `pass_frames` as in `load_stored`.

    Raises KeyError or RuntimeError for weights that do not fit the sizes.
    """
    load: Callable[..., Tokenizer] = named_object(family_of(stored.kind).load)
    arguments: dict[str, Any] = {
        "name": stored.kind,
        "vocab_size": stored.sizes.vocab_size,
        "input_px": stored.input_px,
        "stride": stored.sizes.stride,
        "weights_sha256": stored.encoder_sha256,
        "device": device,
        "dtype": dtype,
        "pass_frames": pass_frames or stored.pass_frames(device.type),
    }
    return load(stored, weights, **arguments)


def without_memory(build: Callable[[S], N], sizes: S) -> N:
    """Build a network on the meta device, so that sizes that do not match the weights cost no memory."""
    with torch.device("meta"):
        return build(sizes)


def filled(network: N, state: dict[str, Tensor]) -> N:
    """Fill a network, built on the meta device, with the tensors of `state`.

    Raises RuntimeError, naming the first ones, for tensors that are missing, unknown or misshapen.
    """
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    problems = [f"{key} is missing" for key in shapes if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in shapes]
    problems += [
        f"{key} has the shape {tuple(tensor.shape)}, expected {tuple(shapes[key])}"
        for key, tensor in state.items()
        if key in shapes and tensor.shape != shapes[key]
    ]
    if problems:
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise RuntimeError("; ".join(problems[:SHOWN_PROBLEMS] + more))
    network.load_state_dict(state, assign=True)
    return network


@contextmanager
def _weights_match_description(folder: Path) -> Iterator[None]:
    """Turn errors about missing, unexpected or misshapen weights into a UserError with the folder and a fix."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder}: the weights do not match the sizes in {DESCRIPTION} ({error}); copy the whole folder again"
        ) from None
