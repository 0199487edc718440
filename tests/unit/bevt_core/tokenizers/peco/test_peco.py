"""PeCo: the codebook's moving averages against a plain reference, gradients, restarts, storage, the perceptual loss."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from bevt_core.storage.files import sha256_of
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.codes import count_and_sum
from bevt_core.tokenizers.peco.codebook import EPS, Codebook, straight_through
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.peco.perceptual import Perceptual
from bevt_core.tokenizers.peco.tokenizer import PECO_PRESETS, PecoTrainingModule
from schemas.errors import UserError
from schemas.recipes import PecoTraining, PerceptualConfig
from tests.support.frames import noise_frames, smooth_frames
from trainer.distributed.world import World
from trainer.tokenizer.tasks import FRAMES, PecoTask, drawn_vectors

TINY = PecoSizes(width=8, blocks=1, code_dim=8, vocab_size=32)
TRAINING = PecoTraining(
    kind="peco",
    preset="nano",
    pixel="l1",
    commitment_weight=0.25,
    ema_decay=0.9,
    dead_share=0.1,
    perceptual=None,
)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def started(seed: int = 0) -> PecoTrainingModule:
    torch.manual_seed(seed)
    module = PecoTrainingModule(TINY)
    module.warm_start(smooth_frames(40), torch.Generator().manual_seed(0))
    return module


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "peco"
    started().save(folder, input_px=64, origin={"made_by": "a test"})
    return folder


# ---- the codebook --------------------------------------------------------------------------------


def test_the_codebooks_averages_match_a_plain_loop() -> None:
    """van den Oord et al. 2017, appendix A.1, code by code."""
    vocab, dim, decay = 6, 3, 0.8
    generator = torch.Generator().manual_seed(0)
    book = Codebook(vocab, dim)
    book.start(torch.randn(vocab, dim, generator=generator))
    uses, sums = [1.0] * vocab, [code.clone() for code in book.codes_VD]
    for _ in range(5):
        vectors = torch.randn(20, dim, generator=generator)
        ids, _ = book.quantise(vectors)
        assert torch.equal(ids, torch.cdist(vectors, book.codes_VD).argmin(dim=1))
        book.follow(*count_and_sum(ids, vectors, vocab), decay)
        for code in range(vocab):
            chosen = [vector for vector, of in zip(vectors, ids.tolist(), strict=True) if of == code]
            uses[code] = decay * uses[code] + (1 - decay) * len(chosen)
            sums[code] = decay * sums[code] + (1 - decay) * (sum(chosen) if chosen else torch.zeros(dim))
        total = sum(uses)
        for code in range(vocab):
            expected = sums[code] / ((uses[code] + EPS) / (total + vocab * EPS) * total)
            assert torch.allclose(book.codes_VD[code], expected, atol=1e-5)


def test_the_gradient_goes_straight_through() -> None:
    vectors, codes = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    out = straight_through(vectors, codes)
    assert torch.allclose(out, codes)
    weights = torch.randn(4, 3)
    (out * weights).sum().backward()
    assert torch.equal(vectors.grad, weights) and codes.grad is None


def test_every_parameter_gets_a_gradient_and_the_codebook_none() -> None:
    module = started()
    out = module(smooth_frames(2))
    (out.decoded_NCHW.square().mean() + out.commitment).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
    assert not any(name.startswith("codebook") for name, _ in module.named_parameters())
    assert float(module.encoder[0].weight.grad.abs().sum()) > 0  # bypassing the quantisation


def test_dead_codes_restart_at_the_given_vectors() -> None:
    book = Codebook(4, 2)
    book.start(torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 50.0], [60.0, 60.0]]))
    vectors = torch.tensor([[0.0, 0.1], [1.0, 0.1], [0.9, 0.0]])
    for _ in range(40):
        ids, _ = book.quantise(vectors)
        book.follow(*count_and_sum(ids, vectors, 4), 0.8)
    assert book.dead(0.1).tolist() == [2, 3]
    book.restart(book.dead(0.1), vectors[:2])
    assert torch.equal(book.codes_VD[2:], vectors[:2])
    assert book.dead(0.1).tolist() == []
    before = book.codes_VD[3].clone()
    book.follow(torch.zeros(4), torch.zeros(4, 2), 0.5)
    assert torch.allclose(book.codes_VD[3], before, atol=1e-4)  # unused for a step, it does not move


# ---- training ------------------------------------------------------------------------------------


def run(
    module: PecoTrainingModule, steps: int, micro_batches: int = 1, training: PecoTraining = TRAINING
) -> list[float]:
    """Train on smooth pictures as the loop does; returns the loss of every step."""
    task = PecoTask(module, training, steps, ALONE, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        terms = []
        for chunk in smooth_frames(8).chunk(micro_batches):
            terms.append(task.losses(module, {FRAMES: {"frame": chunk}}, step)["peco"])
        loss = sum(term.loss_sum for term in terms) / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.move_codebook(step + 1)
        losses.append(float(loss.detach()))
    return losses


def test_training_lowers_the_loss_and_repeats_from_its_seeds() -> None:
    first = run(started(), 40)
    assert first[-1] < 0.8 * first[0]
    assert first == run(started(), 40)


def test_micro_batches_change_neither_the_loss_nor_the_codebook() -> None:
    whole, cut = started(), started()
    assert run(whole, 3) == pytest.approx(run(cut, 3, micro_batches=4), abs=1e-5)  # worst seen 2e-7
    assert torch.allclose(whole.codebook.codes_VD, cut.codebook.codes_VD, atol=1e-4)


def test_a_step_that_is_not_finite_leaves_the_codebook_alone() -> None:
    module = started()
    task = PecoTask(module, TRAINING, 1, ALONE, seed=0)
    before = module.codebook.codes_VD.clone()
    with torch.no_grad():
        module.encoder[0].weight.fill_(float("nan"))
    task.losses(module, {FRAMES: {"frame": smooth_frames(2)}}, 0)
    assert task.move_codebook(1) == {}
    assert torch.equal(module.codebook.codes_VD, before)


def test_drawn_vectors_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(10, 3)
    alone = drawn_vectors(vectors, ALONE, 6, 0, 7)
    shares = [vectors[:4], vectors[4:]]

    def sum_of(self: World, values: torch.Tensor) -> torch.Tensor:
        return torch.tensor([4, 6]) if values.dtype == torch.int64 else values

    monkeypatch.setattr(World, "sum", sum_of)
    worlds = [World(rank=rank, size=2, device=torch.device("cpu")) for rank in range(2)]
    parts = [drawn_vectors(share, world, 6, 0, 7) for share, world in zip(shares, worlds, strict=True)]
    assert torch.equal(parts[0] + parts[1], alone)


@pytest.mark.parametrize(("preset", "stride"), [("nano", 8), ("small", 16), ("paper", 16)])
def test_pixels_a_token(preset: str, stride: int) -> None:
    assert PECO_PRESETS[preset].stride == stride


# ---- the tokenizer -------------------------------------------------------------------------------


def test_the_stored_model_equals_the_trained_one(tiny: Path) -> None:
    tokenizer, module = load_tokenizer(tiny), started()
    frames = noise_frames(16, size=64)
    ids = tokenizer.encode(frames)
    assert (ids.shape, ids.dtype) == ((16, 4, 4), torch.int64)
    assert torch.equal(ids.flatten(), module(frames).ids_M)
    difference = tokenizer.decode(ids).int() - module.reconstruct(frames).int()
    assert difference.abs().max() <= 1  # the straight-through sum rounds
    identity = tokenizer.identity()
    assert (identity.name, identity.vocab_size, identity.grid, identity.input_px) == ("peco", 32, (4, 4), 64)
    assert identity.weights_sha256 == sha256_of(tiny / "encoder.safetensors")


def test_ids_do_not_depend_on_batch_size_or_threads(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    frames = noise_frames(37, size=64)
    whole = tokenizer.encode(frames)
    assert len(whole.unique()) > 4
    for size in (1, 5, 16, 17):
        assert torch.equal(torch.cat([tokenizer.encode(part) for part in frames.split(size)]), whole)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(tokenizer.encode(frames), whole)


def test_bfloat16_ids_nearly_agree(tiny: Path) -> None:
    frames = smooth_frames(16, size=64)
    exact, half = (load_tokenizer(tiny, dtype=dtype).encode(frames) for dtype in ("float32", "bfloat16"))
    assert (exact == half).float().mean() > 0.7


def test_files_of_another_kind_or_size_are_refused(tiny: Path, tmp_path: Path) -> None:
    card = json.loads((tiny / "tokenizer.json").read_text())

    def copy(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in tiny.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "tokenizer.json").write_text(json.dumps(card | changes))
        return folder

    with pytest.raises(UserError, match=r"sizes\.width: unknown key"):
        load_tokenizer(copy("kind", kind="dvae"))
    with pytest.raises(UserError, match="weights do not match the sizes in"):
        load_tokenizer(copy("sizes", sizes=card["sizes"] | {"vocab_size": 64}))
    with pytest.raises(UserError, match="weights do not match the sizes in"):
        load_tokenizer(copy("wide", sizes=card["sizes"] | {"width": 16}))
    folder = copy("codes")
    state = load_file(folder / "encoder.safetensors")
    del state["codes"]
    save_file(state, folder / "encoder.safetensors")
    with pytest.raises(UserError, match="damaged or was replaced"):
        load_tokenizer(folder)
    sha256 = sha256_of(folder / "encoder.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(card | {"encoder_sha256": sha256}))
    with pytest.raises(UserError, match="weights do not match the sizes in"):
        load_tokenizer(folder)


# ---- the perceptual loss -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's smallest ViT, with its head."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), path)
    return path


def test_the_perceptual_distance_is_the_features(vit: Path) -> None:
    distance = Perceptual("vit_tiny_patch16_224", [2, 11], str(vit))
    a, b = torch.rand(2, 3, 224, 224), torch.rand(2, 3, 224, 224, requires_grad=True)
    assert float(distance(a, a)) == 0.0
    value = distance(a, b)
    features = [distance.network.forward_intermediates((x - 0.5) / 0.5, indices=[2, 11])[1] for x in (a, b)]
    expected = sum((x - y).square().mean() for x, y in zip(*features, strict=True))
    assert torch.isclose(value, expected)
    value.backward()
    assert float(b.grad.abs().sum()) > 0
    assert all(p.grad is None for p in distance.parameters())


def test_a_perceptual_loss_trains_and_stays_out_of_the_weights(vit: Path) -> None:
    config = PerceptualConfig(name="vit_tiny_patch16_224", layers=(5,), weight=0.1, weights=str(vit))
    module = started()
    keys = set(module.state_dict())
    run(module, 1, training=TRAINING.model_copy(update={"perceptual": config}))
    assert set(module.state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("vit_tiny_patch16_225", [2], "no such model in timm; did you mean 'vit_tiny"),
        ("vit_tiny_patch16_224", [12], "perceptual.layers"),
    ],
)
def test_unknown_networks_and_layers_are_refused(name: str, layers: list[int], message: str, vit: Path) -> None:
    with pytest.raises(UserError, match=message):
        Perceptual(name, layers, str(vit))


def test_missing_or_unfitting_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; download"):
        Perceptual("vit_tiny_patch16_224", [2], str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="do not fit"):
        Perceptual("vit_tiny_patch16_224", [2], str(tiny / "encoder.safetensors"))
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"perceptual.weights .*(not a checkpoint|a text file|cut or damaged)"):
        Perceptual("vit_tiny_patch16_224", [2], str(tmp_path / "page.pth"))
