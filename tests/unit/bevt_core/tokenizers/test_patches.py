"""The dVAE's form `patches`: nearest codes and their pixels at first, training, storage, and errors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.base import to_uint8, to_unit
from bevt_core.tokenizers.description import DESCRIPTION, read_description
from bevt_core.tokenizers.dvae import patch_tokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes, PatchSizes
from bevt_core.tokenizers.dvae.forms import FORMS
from bevt_core.tokenizers.dvae.patches import PatchDecoder, PatchEncoder
from bevt_core.tokenizers.dvae.pixels import map_pixels, to_patches
from bevt_core.tokenizers.dvae.training import DVAE_PRESETS, DvaeTrainingModule
from bevt_core.tokenizers.families import family_of
from schemas.errors import UserError
from tests.support.fake_cuda import CUDA, fake_cuda
from tests.support.frames import noise_frames, smooth_frames

TINY = PatchSizes(width=16, blocks=1, vocab_size=32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def started() -> DvaeTrainingModule:
    """A module after its warm start, not trained."""
    torch.manual_seed(0)
    module = DvaeTrainingModule(TINY, "mse")
    module.warm_start(smooth_frames(200), torch.Generator().manual_seed(0))
    return module


@pytest.fixture(scope="module")
def tiny(started: DvaeTrainingModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    started.save(folder, input_px=32, origin={"made_by": "a test"})
    return folder


def test_every_sizes_of_the_family_has_a_form_and_every_preset_sizes() -> None:
    family = family_of("dvae")
    assert {family.sizes, *family.forms} == set(FORMS)
    assert {type(sizes) for sizes in DVAE_PRESETS.values()} == set(FORMS)
    assert family.sizes_of("patches") is PatchSizes and family.sizes_of(None) is DvaeSizes


@pytest.mark.parametrize("side", [1, 2, 4, 32])
def test_a_warm_started_encoder_chooses_the_nearest_code(started: DvaeTrainingModule, side: int) -> None:
    """For any frames, here noise with squares of 32 / side px; in float64, since the nearest two may be close."""
    coarse_NHWC = noise_frames(8, size=side, seed=side)
    unit_NCHW = to_unit(coarse_NHWC.repeat_interleave(32 // side, 1).repeat_interleave(32 // side, 2))
    chosen_Nhw = started.encoder(map_pixels(unit_NCHW)).argmax(dim=1)
    distances_NhwV = torch.cdist(to_patches(unit_NCHW).double(), started.guide_VP.double())
    chosen_Nhw1 = distances_NhwV.gather(-1, chosen_Nhw.unsqueeze(-1))
    torch.testing.assert_close(chosen_Nhw1[..., 0], distances_NhwV.amin(dim=-1), rtol=1e-5, atol=0)
    assert len(chosen_Nhw.unique()) > 1


def test_an_untrained_decoder_draws_the_codes(started: DvaeTrainingModule, tiny: Path) -> None:
    ids_Nhw = torch.arange(32).reshape(2, 4, 4)
    codes_NCHW = started.guide_VP[ids_Nhw].unflatten(-1, (3, 8, 8)).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    drawn_NHWC = load_tokenizer(tiny).decode(ids_Nhw)
    assert (drawn_NHWC.int() - to_uint8(codes_NCHW).int()).abs().max() <= 1
    assert (drawn_NHWC != to_uint8(codes_NCHW)).float().mean() < 0.01  # halves, rounded another way


def test_a_stored_tokenizer_is_the_module_and_does_not_depend_on_batches_threads_or_dtype(
    started: DvaeTrainingModule, tiny: Path
) -> None:
    tokenizer, frames = load_tokenizer(tiny), noise_frames(37)
    ids = tokenizer.encode(frames)
    assert torch.equal(tokenizer.decode(ids), started.reconstruct(frames))
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in frames.split(5)]), ids)
    torch.set_num_threads(3)
    assert torch.equal(tokenizer.encode(frames), ids)
    half = load_tokenizer(tiny, dtype="bfloat16")
    assert torch.equal(half.encode(frames), ids)
    assert (half.decode(ids).int() - tokenizer.decode(ids).int()).abs().float().mean() < 2


@pytest.mark.slow
def test_compiled_ids_nearly_agree(tiny: Path) -> None:
    frames = noise_frames(37)
    eager, compiled = load_tokenizer(tiny), load_tokenizer(tiny).compile()
    assert (eager.encode(frames) == compiled.encode(frames)).float().mean() > 0.99


def test_a_few_steps_lower_the_loss_and_repeat(started: DvaeTrainingModule) -> None:
    def run() -> tuple[list[float], DvaeTrainingModule]:
        module = DvaeTrainingModule(TINY, "mse")
        module.load_state_dict(started.state_dict())
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        losses = []
        for step in range(12):
            out = module(smooth_frames(16), 0.1, 0.0, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
            losses.append(out["recon"].item())
        return losses, module

    losses, module = run()
    assert losses[-1] < 0.97 * losses[0]
    assert module.encoder.output.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert losses == run()[0]


def test_one_without_a_decoder_says_so() -> None:
    arguments: dict[str, Any] = {"name": "dvae", "vocab_size": 32, "input_px": 32, "stride": 8, "weights_sha256": ""}
    tokenizer = patch_tokenizer.PatchTokenizer(
        PatchEncoder(TINY), None, **arguments, device=torch.device("cpu"), dtype="float32", pass_frames=16
    )
    assert not tokenizer.can_decode
    with pytest.raises(UserError, match="stored without its decoder"):
        tokenizer.decode(torch.zeros(1, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"form": "patchs"}, r"sizes\.form: unknown key"),
        ({"n_hid": 8}, r"sizes\.n_hid: unknown key"),
        ({"blocks": 2}, r"weights do not match the sizes .*blocks\.1\.conv1\.weight is missing"),
    ],
)
def test_errors_name_what_does_not_fit(tiny: Path, tmp_path: Path, sizes: dict[str, object], message: str) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    described = json.loads((tiny / DESCRIPTION).read_text())
    described["sizes"] |= sizes
    (tmp_path / DESCRIPTION).write_text(json.dumps(described))
    assert read_description(tiny).sizes == TINY
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.fake_cuda
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_on_a_gpu_it_never_waits(dtype: str) -> None:
    sizes = {"vocab_size": 32, "input_px": 32, "stride": 8}
    encoder, decoder = PatchEncoder(TINY), PatchDecoder(TINY)
    with fake_cuda() as watch:
        tokenizer = patch_tokenizer.PatchTokenizer(
            encoder,
            decoder,
            name="dvae",
            weights_sha256="",
            device=CUDA,
            dtype=dtype,
            pass_frames=4,
            **sizes,
        )
        watch.faults.clear()  # the copy of the weights
        ids_Nhw = tokenizer.encode(noise_frames(5))
        frames_NCHW = tokenizer._in_passes(ids_Nhw, tokenizer._decode_pass)
        assert (ids_Nhw.device, frames_NCHW.shape) == (CUDA, (5, 3, 32, 32))
    assert watch.faults == []
