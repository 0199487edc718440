"""The dVAE's two networks, from the `dall-e` package, at any size and in any precision.

The package's own convolution casts its weights at every call and supports only two precisions; here each one is
replaced by PyTorch's, with the same weights. State dicts keep the package's names (`blocks.input.w`), so a stored file
loads into `dall_e.Encoder` unchanged.
"""

from collections.abc import Mapping

import attr
import torch
from dall_e.decoder import Decoder
from dall_e.encoder import Encoder
from dall_e.utils import Conv2d
from torch import Tensor, nn

from bevt_core.tokenizers.dvae.family import DvaeSizes


def build_encoder(sizes: DvaeSizes) -> nn.Sequential:
    """`input, group_1 .. group_4, output`: float `[N, 3, H, W]` in [0.1, 0.9] -> logits `[N, V, H/8, W/8]`.

    Weights are initialised from torch's global generator, as in the package.
    """
    with attr.validators.disabled():  # the package rejects n_hid < 64, though every layer works
        encoder = Encoder(
            n_hid=sizes.n_hid,
            n_blk_per_group=sizes.n_blk_per_group,
            vocab_size=sizes.vocab_size,
            device=torch.get_default_device(),
        )
    return _native(encoder.blocks)


def build_decoder(sizes: DvaeSizes) -> nn.Sequential:
    """`input, group_1 .. group_4, output`: one-hot `[N, V, h, w]` -> logit-Laplace mean and ln b `[N, 6, 8h, 8w]`."""
    with attr.validators.disabled():
        decoder = Decoder(
            n_init=sizes.n_init,
            n_hid=sizes.n_hid,
            n_blk_per_group=sizes.n_blk_per_group,
            vocab_size=sizes.vocab_size,
            device=torch.get_default_device(),
        )
    return _native(decoder.blocks)


def sizes_of(encoder_state: Mapping[str, Tensor], decoder_state: Mapping[str, Tensor] | None) -> DvaeSizes:
    """Infer the sizes from the shapes of stored weights, under the package's names."""
    blocks = {key.split(".")[2] for key in encoder_state if key.startswith("blocks.group_1.block_")}
    return DvaeSizes(
        n_hid=encoder_state["blocks.input.w"].shape[0],
        n_blk_per_group=len(blocks),
        n_init=decoder_state["blocks.input.w"].shape[0] if decoder_state else DvaeSizes().n_init,
        vocab_size=encoder_state["blocks.output.conv.w"].shape[0],
    )


def to_package_state(network: nn.Sequential) -> dict[str, Tensor]:
    """A network's weights under the package's names."""
    names = {"weight": "w", "bias": "b"}
    state = {}
    for key, value in network.state_dict().items():
        stem, leaf = key.rsplit(".", 1)
        state[f"blocks.{stem}.{names[leaf]}"] = value.detach().contiguous()
    return state


def load_package_state(network: nn.Sequential, state: Mapping[str, Tensor]) -> None:
    """Load weights under the package's names, strictly: a missing or unexpected weight raises RuntimeError.

    A network on the meta device uses the tensors themselves, others copy them.
    """
    names = {"w": "weight", "b": "bias"}
    renamed = {}
    for key, value in state.items():
        stem, leaf = key.removeprefix("blocks.").rsplit(".", 1)
        renamed[f"{stem}.{names.get(leaf, leaf)}"] = value.float()
    network.load_state_dict(renamed, strict=True, assign=next(network.parameters()).is_meta)


def _native(blocks: nn.Sequential) -> nn.Sequential:
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2d):
                module.add_module(name, _native_conv(child))
    return blocks


def _native_conv(conv: Conv2d) -> nn.Conv2d:
    native = nn.Conv2d(conv.n_in, conv.n_out, conv.kw, padding=conv.kw // 2, device="meta")
    native.weight, native.bias = conv.w, conv.b
    return native
