"""The tokenizer interface, its storage, the restricted unpickler, and the dVAE's training module."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dall_e import Encoder
from torch import nn

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.codes import fit_codes, nearest_code, perplexity
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.losses import (
    guide_weight_at,
    gumbel_softmax,
    kl_to_uniform,
    kl_weight_at,
    logit_laplace_loss,
    mse_loss,
    temperature_at,
)
from bevt_core.tokenizers.dvae.pixels import to_patches
from bevt_core.tokenizers.dvae.training import DVAE_PRESETS, DvaeTrainingModule, dvae_lr_share
from bevt_core.tokenizers.published.dalle import convert_pickles
from schemas.errors import UserError
from tests.support.frames import noise_frames, smooth_frames
from tests.support.json_keys import CheckKeys

TINY = DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=16, vocab_size=32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower with several threads, especially if tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    torch.manual_seed(0)
    DvaeTrainingModule(TINY, "mse").save(folder, input_px=32, origin={"made_by": "a test"})
    return folder


# ---- the interface -------------------------------------------------------------------------------


def test_encode_and_decode_shapes_and_types(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    ids = tokenizer.encode(noise_frames(3))
    assert (ids.shape, ids.dtype) == ((3, 4, 4), torch.int64)
    assert int(ids.min()) >= 0 and int(ids.max()) < TINY.vocab_size
    back = tokenizer.decode(ids)
    assert (back.shape, back.dtype) == ((3, 32, 32, 3), torch.uint8)
    assert tokenizer.encode(noise_frames(0)).shape == (0, 4, 4)
    assert tokenizer.decode(ids[:0]).shape == (0, 32, 32, 3)


def test_ids_do_not_depend_on_batch_size_or_threads(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    frames = noise_frames(37)
    whole = tokenizer.encode(frames)
    for size in (1, 5, 16, 17):
        assert torch.equal(torch.cat([tokenizer.encode(part) for part in frames.split(size)]), whole)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(tokenizer.encode(frames), whole)


def test_identity_names_weights_and_device(tiny: Path) -> None:
    identity = load_tokenizer(tiny).identity()
    assert (identity.name, identity.vocab_size, identity.grid, identity.input_px) == ("dvae", 32, (4, 4), 32)
    assert (identity.dtype, identity.device_kind) == ("float32", "cpu")
    assert len(identity.weights_sha256) == 64
    assert load_tokenizer(tiny, dtype="bfloat16").identity().dtype == "bfloat16"


def test_bfloat16_ids_nearly_agree(tiny: Path) -> None:
    frames = noise_frames(16)
    exact, half = (load_tokenizer(tiny, dtype=dtype).encode(frames) for dtype in ("float32", "bfloat16"))
    assert (exact == half).float().mean() > 0.8  # random weights have close logits, the worst case; 0.93 measured


@pytest.mark.slow
def test_compiled_ids_nearly_agree_and_the_identity_records_it(tiny: Path) -> None:
    frames = noise_frames(37)
    eager, compiled = load_tokenizer(tiny), load_tokenizer(tiny).compile()
    assert (eager.encode(frames) == compiled.encode(frames)).float().mean() > 0.99
    assert compiled.identity() == eager.identity().model_copy(update={"compiled": True})


@pytest.mark.parametrize("frames", [torch.zeros(1, 112, 112, 3, dtype=torch.uint8), torch.zeros(1, 32, 32, 3)])
def test_frames_of_another_size_or_type_are_refused(tiny: Path, frames: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"expects uint8 frames \[N, 32, 32, 3\], got"):
        load_tokenizer(tiny).encode(frames)


def test_foreign_ids_are_refused(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    with pytest.raises(UserError, match=r"has ids 0\.\.31, got 0\.\.32"):
        tokenizer.decode(torch.arange(17, 33).reshape(1, 4, 4) * torch.tensor([0, 1]).repeat(8).reshape(1, 4, 4))
    with pytest.raises(UserError, match="expects ids"):
        tokenizer.decode(torch.zeros(1, 14, 14, dtype=torch.int64))


# ---- storage -------------------------------------------------------------------------------------


def test_an_unknown_tokenizer_raises_with_the_command_to_train_one() -> None:
    with pytest.raises(UserError, match=r"not found.*tokenizer train dvae.*tokenizer convert"):
        load_tokenizer("no-such-tokenizer")


@pytest.mark.parametrize("name", ["dalle", "ibq-16384"])
def test_a_published_tokenizer_that_was_not_fetched_raises_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEVT_TOKENIZERS", str(tmp_path))
    with pytest.raises(UserError, match=rf"'{name}' not found; download it with `bevt tokenizer fetch {name}`"):
        load_tokenizer(name)


def test_a_folder_without_a_card_and_damaged_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"an empty folder; expected a folder with tokenizer\.json"):
        load_tokenizer(tmp_path)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = bytearray((damaged / "encoder.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "encoder.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="damaged or was replaced"):
        load_tokenizer(damaged)
    (damaged / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_tokenizer(damaged)


def test_an_unknown_dtype_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match="dtype 'int8' is not one of"):
        load_tokenizer(tiny, dtype="int8")


def test_saving_refuses_an_existing_folder_and_half_storage_halves_the_file(tiny: Path, tmp_path: Path) -> None:
    module = DvaeTrainingModule(TINY, "mse")
    with pytest.raises(UserError, match="exists"):
        module.save(tiny, input_px=32, origin={})
    module.save(tmp_path / "half", input_px=32, origin={}, storage="float16")
    full, half = (place / "encoder.safetensors" for place in (tiny, tmp_path / "half"))
    assert half.stat().st_size < 0.7 * full.stat().st_size
    load_tokenizer(tmp_path / "half").encode(noise_frames(1))


# ---- the restricted unpickler --------------------------------------------------------------------


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["torch", "protocol 2", "protocol 4"])
def test_a_malicious_pickle_is_refused_and_not_executed(form: str, tmp_path: Path) -> None:
    planted = Malicious(tmp_path / "executed")
    if form == "torch":
        torch.save(planted, tmp_path / "encoder.pkl")
    else:
        (tmp_path / "encoder.pkl").write_bytes(pickle.dumps(planted, protocol=int(form[-1])))
    named = "" if form == "protocol 4" else r".*it asks for posix\.system"  # protocol 4's instructions are rejected
    with pytest.raises(UserError, match="refused, nothing in it was executed" + named):
        convert_pickles(tmp_path / "encoder.pkl", None, tmp_path / "out")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


def test_a_module_outside_the_allow_list_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "encoder.pkl")
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        convert_pickles(tmp_path / "encoder.pkl", None, tmp_path / "out")


def test_other_wrong_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pkl").write_text("<html>404</html>")
    with pytest.raises(UserError, match="refused"):
        convert_pickles(tmp_path / "page.pkl", None, tmp_path / "out")
    with pytest.raises(UserError, match="not a file; download"):
        convert_pickles(tmp_path / "missing.pkl", None, tmp_path / "out")
    torch.save(nn.Sequential(nn.ReLU()), tmp_path / "other.pkl")
    with pytest.raises(UserError, match="contains a Sequential, expected the dall-e package's Encoder"):
        convert_pickles(tmp_path / "other.pkl", None, tmp_path / "out")


def test_the_expected_digest_is_checked_and_the_actual_one_recorded(tmp_path: Path, json_keys: CheckKeys) -> None:
    torch.save(Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512), tmp_path / "encoder.pkl")
    with pytest.raises(UserError, match=r"sha256 \w{12}, expected 00"):
        convert_pickles(tmp_path / "encoder.pkl", None, tmp_path / "out", expected_sha256="00")
    stored = convert_pickles(tmp_path / "encoder.pkl", None, tmp_path / "out")
    json_keys("tokenizer convert", stored.model_dump(mode="json"))
    digest = stored.origin["encoder_pkl_sha256"]
    assert isinstance(digest, str)
    convert_pickles(tmp_path / "encoder.pkl", None, tmp_path / "again", expected_sha256=digest.upper())
    with pytest.raises(UserError, match="without its decoder"):
        load_tokenizer(tmp_path / "out").decode(torch.zeros(1, 14, 14, dtype=torch.int64))


# ---- losses and training -------------------------------------------------------------------------


def test_gumbel_softmax_draws_in_proportion_and_sharpens() -> None:
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1])).reshape(1, 3, 1, 1).expand(4000, 3, 1, 1)
    draws = gumbel_softmax(logits, 0.01, torch.Generator().manual_seed(0))
    assert draws.sum(dim=1).sub(1).abs().max() < 1e-5
    assert draws.amax(dim=1).mean() > 0.98
    assert torch.allclose(draws.mean(dim=(0, 2, 3)), torch.tensor([0.7, 0.2, 0.1]), atol=0.03)


def test_kl_to_uniform_is_zero_for_uniform_and_log_v_for_certain() -> None:
    assert kl_to_uniform(torch.zeros(2, 8, 3, 3)).abs() < 1e-6
    certain = torch.zeros(2, 8, 3, 3)
    certain[:, 5] = 100
    assert torch.isclose(kl_to_uniform(certain), torch.tensor(8.0).log())


def test_logit_laplace_is_a_density() -> None:
    """Integrates to one over the mapped pixel's range (0, 1), for any mean and scale."""
    x = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    unit = ((x - 0.1) / 0.8).reshape(1, 1, -1, 1)
    for mean, ln_b in ((0.0, 0.0), (0.7, -1.0)):
        stats = torch.tensor([mean, ln_b], dtype=torch.float64).reshape(1, 2, 1, 1).expand(1, 2, 20000, 1)
        nll = torch.stack(
            [logit_laplace_loss(stats[:, :, i : i + 1], unit[:, :, i : i + 1]) for i in range(0, 20000, 50)]
        )
        assert abs(float(torch.exp(-nll).mean()) - 1) < 0.02


def test_mse_is_zero_for_the_right_mean() -> None:
    unit = torch.rand(1, 3, 4, 4)
    stats = torch.cat([torch.logit(0.8 * unit + 0.1), torch.zeros_like(unit)], dim=1)
    assert mse_loss(stats, unit) < 1e-10


def test_schedules_have_the_given_ends() -> None:
    assert temperature_at(0.0, 1.0, 1 / 16) == 1.0
    assert temperature_at(1.0, 1.0, 1 / 16) == temperature_at(0.75, 1.0, 1 / 16) == 1 / 16
    assert kl_weight_at(0.0, 0.0, 6.6) == 0.0
    assert (guide_weight_at(0.0, 1.0), guide_weight_at(0.6, 1.0), guide_weight_at(1.0, 1.0)) == (1.0, 0.0, 0.0)
    assert kl_weight_at(0.1, 0.0, 6.6) == kl_weight_at(1.0, 0.0, 6.6) == 6.6


def test_perplexity_is_the_number_of_equally_frequent_ids() -> None:
    assert torch.isclose(perplexity(torch.tensor([5, 5, 5, 0])), torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize("recon", ["mse", "logit-laplace"])
def test_training_lowers_the_loss_and_repeats_from_its_seeds(recon: str) -> None:
    def run() -> list[float]:
        torch.manual_seed(0)
        module = DvaeTrainingModule(TINY, recon)
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        flat = torch.rand(8, 1, 1, 3, generator=torch.Generator().manual_seed(1)).expand(8, 8, 8, 3)
        frames = (flat * 255).to(torch.uint8)
        losses = []
        for step in range(15):
            out = module(frames, 1.0, 0.0, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
            losses.append(out["recon"].item())
        return losses

    first = run()
    assert first[-1] < first[0] - 0.003
    assert first == run()


def test_a_warm_start_uses_the_codebook_and_repeats() -> None:
    def started() -> DvaeTrainingModule:
        torch.manual_seed(0)
        module = DvaeTrainingModule(TINY, "mse")
        module.warm_start(smooth_frames(60), torch.Generator().manual_seed(0))
        return module

    torch.manual_seed(0)
    cold = DvaeTrainingModule(TINY, "mse")(smooth_frames(60), 0.1, 0.0, generator=torch.Generator().manual_seed(1))
    module = started()
    warm = module(smooth_frames(60), 0.1, 0.0, guide_weight=1.0, generator=torch.Generator().manual_seed(1))
    assert warm["recon"] < cold["recon"] / 1.5
    assert warm["codebook_used"] > 0.6 * TINY.vocab_size > cold["codebook_used"]
    assert 0 < warm["guide"] < 3.0 < torch.tensor(32.0).log()  # nats; 3.47 is chance
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), started().parameters(), strict=True))


def test_the_encoder_trains_at_a_tenth_of_the_rate() -> None:
    shares = {dvae_lr_share(name) for name, _ in DvaeTrainingModule(TINY, "mse").encoder.named_parameters("encoder")}
    assert shares == {0.1}
    assert dvae_lr_share("decoder.input.weight") == 1.0


def test_patch_codes_are_the_k_means_centres() -> None:
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    patches = centres.repeat_interleave(20, dim=0) + 0.01 * torch.randn(60, 2, generator=generator)
    codes = fit_codes(patches, 6, generator)  # more codes than clusters: each cluster has one
    assert nearest_code(centres, codes).unique().numel() == 3
    assert torch.allclose(codes[nearest_code(centres, codes)], centres, atol=0.03)


def test_patches_match_their_tokens() -> None:
    unit = torch.rand(2, 3, 16, 24)
    patches = to_patches(unit)
    assert patches.shape == (2, 2, 3, 192)
    assert torch.equal(patches[1, 1, 2], unit[1, :, 8:16, 16:24].flatten())


def test_the_module_accepts_uint8_and_floats() -> None:
    module = DvaeTrainingModule(TINY, "mse")
    frames = noise_frames(2)
    floats = frames.permute(0, 3, 1, 2).float() / 255
    ours, theirs = (module(x, 1.0, 1.0, generator=torch.Generator().manual_seed(0))["loss"] for x in (frames, floats))
    assert torch.isclose(ours, theirs)


def test_an_unknown_reconstruction_loss_is_refused() -> None:
    with pytest.raises(UserError, match="'l1' is not one of"):
        DvaeTrainingModule(TINY, "l1")


@pytest.mark.parametrize("preset", [name for name in DVAE_PRESETS if name != "paper"])
def test_every_small_preset_trains_a_step(preset: str) -> None:
    out = DvaeTrainingModule(DVAE_PRESETS[preset], "mse")(noise_frames(1, size=16), 1.0, 1.0)
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
