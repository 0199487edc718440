"""Tokenizers on a GPU, on fake CUDA tensors: devices, host syncs, copies and the rounding of products."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bevt_core.tokenizers.base import Tokenizer, to_uint8
from bevt_core.tokenizers.codebooks import (
    SIGNED,
    AlignedCodes,
    Codebook,
    CodebookTokenizer,
    NearestCodes,
    SignBits,
    UnitVectors,
)
from bevt_core.tokenizers.dvae import networks
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.tokenizer import DvaeTokenizer
from bevt_core.tokenizers.families import BUILT_IN
from bevt_core.tokenizers.magvit2 import networks as magvit2_networks
from bevt_core.tokenizers.magvit2.family import Magvit2Sizes
from bevt_core.tokenizers.peco import networks as peco_networks
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.precision import repeatable
from bevt_core.tokenizers.taming import networks as taming
from bevt_core.tokenizers.taming.family import VqganSizes
from bevt_core.tokenizers.vqkd.family import VqkdSizes
from bevt_core.tokenizers.vqkd.networks import VqkdEncoder
from tests.support.fake_cuda import CUDA, fake_cuda
from trainer.data.online import tokens_in_step

pytestmark = pytest.mark.fake_cuda

INPUT_PX, PASS_FRAMES, VOCAB_SIZE = 32, 4, 32


def dvae(n_hid: int) -> Callable[[str], Tokenizer]:
    sizes = DvaeSizes(n_hid=n_hid, n_blk_per_group=1, n_init=16, vocab_size=VOCAB_SIZE)
    encoder, decoder = networks.build_encoder(sizes), networks.build_decoder(sizes)

    def build(dtype: str) -> Tokenizer:
        return DvaeTokenizer(
            encoder,
            decoder,
            name="dvae",
            input_px=INPUT_PX,
            weights_sha256="",
            device=CUDA,
            dtype=dtype,
            pass_frames=PASS_FRAMES,
        )

    return build


def of_vectors(encoder: nn.Module, codebook: Codebook, decoder: nn.Module | None) -> Callable[[str], Tokenizer]:
    def build(dtype: str) -> Tokenizer:
        return CodebookTokenizer(
            encoder,
            codebook,
            decoder,
            SIGNED,
            name="test",
            vocab_size=VOCAB_SIZE,
            stride=8,
            input_px=INPUT_PX,
            weights_sha256="",
            device=CUDA,
            dtype=dtype,
            pass_frames=PASS_FRAMES,
        )

    return build


def peco() -> Callable[[str], Tokenizer]:
    sizes = PecoSizes(width=8, multipliers=(1, 1, 2, 2), blocks=1, code_dim=8, vocab_size=VOCAB_SIZE)
    encoder, decoder = peco_networks.build_encoder(sizes), peco_networks.build_decoder(sizes)
    return of_vectors(encoder, NearestCodes(torch.zeros(VOCAB_SIZE, 8)), decoder)


def vqgan() -> Callable[[str], Tokenizer]:
    sizes = VqganSizes(width=32, multipliers=(1, 1, 1, 1), blocks=1, latent_width=8, code_dim=8, vocab_size=VOCAB_SIZE)
    return of_vectors(taming.Encoder(sizes), NearestCodes(torch.zeros(VOCAB_SIZE, 8)), taming.Decoder(sizes))


def codes_only(codebook: type[NearestCodes]) -> Callable[[str], Tokenizer]:
    """For kinds with VQGAN's networks: their search for codes, with a network of one convolution."""
    encoder, decoder = nn.Conv2d(3, 8, 8, stride=8), nn.ConvTranspose2d(8, 3, 8, stride=8)
    return of_vectors(encoder, codebook(torch.zeros(VOCAB_SIZE, 8)), decoder)


def magvit2() -> Callable[[str], Tokenizer]:
    sizes = Magvit2Sizes(width=32, multipliers=(1, 1, 1, 1), blocks=1, vocab_size=VOCAB_SIZE)
    return of_vectors(magvit2_networks.Encoder(sizes), SignBits(sizes.bits), magvit2_networks.Decoder(sizes))


def vqkd() -> Callable[[str], Tokenizer]:
    sizes = VqkdSizes(width=16, depth=1, heads=2, mlp_width=32, patch=8, side=4, code_dim=8, vocab_size=VOCAB_SIZE)
    return of_vectors(VqkdEncoder(sizes), UnitVectors(torch.zeros(VOCAB_SIZE, 8)), None)


KINDS = {
    "dvae": lambda: dvae(8),
    "dalle": lambda: dvae(64),
    "peco": peco,
    "vqgan": vqgan,
    "llamagen": lambda: codes_only(UnitVectors),
    "ibq": lambda: codes_only(AlignedCodes),
    "magvit2": magvit2,
    "vqkd": vqkd,
}  # 64: the smallest n_hid that `dall_e` accepts


def test_every_kind_is_here() -> None:
    assert KINDS.keys() == BUILT_IN.keys()


def frames(count: int, **options: Any) -> torch.Tensor:
    return torch.zeros(count, INPUT_PX, INPUT_PX, 3, dtype=torch.uint8, **options)


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_stay_on_the_device_and_never_wait(kind: str, dtype: str) -> None:
    build = KINDS[kind]()
    with fake_cuda() as watch:
        tokenizer = build(dtype)
        watch.faults.clear()  # the copy of the weights
        for count in (0, PASS_FRAMES + 1):
            watch.copies.clear()
            from_cpu = tokenizer.encode(frames(count))
            assert watch.copies == ["to the device"] * -(-count // PASS_FRAMES)
            in_step = tokens_in_step(tokenizer, frames(count, device=CUDA).unsqueeze(1))
            assert from_cpu.device == in_step.device == CUDA
            assert from_cpu.dtype == in_step.dtype == torch.int64
            assert from_cpu.shape == (count, *tokenizer.grid) and in_step.shape == (count, 1, *tokenizer.grid)
        if tokenizer.can_decode:
            # `decode` checks the range of the ids first
            decoded = to_uint8(tokenizer._in_passes(from_cpu, tokenizer._decode_pass))
            assert (decoded.shape, decoded.dtype, decoded.device) == (frames(count).shape, torch.uint8, CUDA)
            assert tokenizer.decode(from_cpu[:0]).device == CUDA
    assert watch.faults == []


# ---- rounding ------------------------------------------------------------------------------------


class Rounding(TorchDispatchMode):
    """The settings under which convolutions and matrix products run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if "conv" in str(func):
            self.seen.add(("conv", torch.backends.cudnn.conv.fp32_precision))
        if "matmul" in str(func) or ".mm" in str(func):
            self.seen.add(("product", torch.backends.cuda.matmul.fp32_precision))
        return func(*args, **(kwargs or {}))


def settings() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "flags": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "precision": [
            place.fp32_precision for place in (torch.backends, cudnn, cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
        ],
    }


def old_tf32_everywhere() -> None:
    torch.set_float32_matmul_precision("high")


def new_tf32_everywhere() -> None:
    torch.backends.fp32_precision = "tf32"


def new_ieee_convolutions() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.benchmark = True


@pytest.fixture
def as_set(request: pytest.FixtureRequest) -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    request.param()
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    cudnn.conv.fp32_precision, cudnn.benchmark = "tf32", False


PROCESSES = [lambda: None, old_tf32_everywhere, new_tf32_everywhere, new_ieee_convolutions]


@pytest.mark.parametrize("as_set", PROCESSES, ids=["default", "old", "new", "mixed"], indirect=True)
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")])
def test_products_are_rounded_as_the_dtype_says_whatever_the_process_does(
    as_set: None, dtype: str, rounding: str
) -> None:
    before = settings()
    build = peco()
    with fake_cuda(), Rounding() as products:
        tokenizer = build(dtype)
        tokenizer._in_passes(tokenizer.encode(frames(1)), tokenizer._decode_pass)
    assert products.seen == {("conv", rounding), ("product", rounding)}
    assert settings() == before


@pytest.mark.parametrize("as_set", PROCESSES[:1], indirect=True)
def test_later_settings_of_the_process_still_apply(as_set: None) -> None:
    with pytest.raises(KeyError), repeatable("ieee"):
        raise KeyError
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    torch.backends.fp32_precision = "none"
