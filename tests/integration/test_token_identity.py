"""What a token set says of its tokenizer: the kind of device, not the board, and the size of its passes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from bevt_core.dataset.token_set import TokenSet, read_token_plan, write_token_plan
from bevt_core.tokenizers import PRETRAINED, load_tokenizer
from bevt_core.tokenizers.description import StoredTokenizer, read_description
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.precision import DTYPES
from pipeline.check import tokens as verify_tokens
from pipeline.check.tokens import _made_here, compare_tokens
from pipeline.job.plan import find_token_plan, make_token_plan, write_or_check_token_plan
from pipeline.job.tokenize_part import PartTokenizer
from schemas.errors import UserError
from schemas.frames import Plan, PoolSpec
from schemas.recipes import TokenizerDtype, TokenizeRecipe
from schemas.tokens import TokenizerIdentity, TokenPartCommit, TokenPlan
from tests.support.builders import make_token_set
from tests.support.tiny_jobs import tiny_recipe

PLAN = Plan(
    dataset="folder",
    split="train",
    classes=("x",),
    pool=PoolSpec(stride=2, phase="zero", max_frames=8, short_side_px=32),
    seed=0,
    sources_per_part=2,
    num_sources=4,
    sources_digest="0" * 64,
)


@pytest.fixture
def recipe(tmp_path: Path) -> TokenizeRecipe:
    return tiny_recipe(tmp_path, tmp_path / "out", PRETRAINED / "dvae-small")


def changed(plan: TokenPlan, **identity: Any) -> TokenPlan:
    return plan.model_copy(update={"tokenizer": plan.tokenizer.model_copy(update=identity)})


# ---- passes and dtypes ---------------------------------------------------------------------------


def card(sizes: DvaeSizes | PecoSizes, input_px: int) -> StoredTokenizer:
    kind = "peco" if isinstance(sizes, PecoSizes) else "dalle"
    return StoredTokenizer(kind=kind, sizes=sizes, input_px=input_px, encoder_sha256="", decoder_sha256=None, origin={})


def test_a_pass_is_16_frames_on_a_cpu_and_fits_into_8_gb_on_a_gpu() -> None:
    dalle, peco, wide = card(DvaeSizes(), 112), card(PecoSizes(), 224), card(DvaeSizes(), 448)
    assert [of.pass_frames("cpu") for of in (dalle, peco, wide)] == [16, 16, 16]
    assert [of.pass_frames("cuda") for of in (dalle, peco, wide)] == [128, 64, 8]
    assert read_description(PRETRAINED / "dvae-small").pass_frames("cuda") == 128


def test_what_only_gpus_do_is_refused_on_a_cpu() -> None:
    with pytest.raises(
        UserError, match="dtype 'tf32' needs a GPU, but the device is a CPU; set tokenizer_dtype=float32"
    ):
        load_tokenizer("dvae-small", dtype="tf32")
    with pytest.raises(UserError, match="tokenizer_pass_frames is 128, expected 16 on a CPU"):
        load_tokenizer("dvae-small", pass_frames=128)
    assert load_tokenizer("dvae-small", pass_frames=16).pass_frames == 16
    meta = load_tokenizer("dvae-small", "meta", "tf32", 40)  # as for a plan, on any machine
    assert (meta.identity().dtype, meta.identity().frames_per_pass) == ("tf32", 40)


def test_calls_have_whole_passes_so_that_none_is_padded_but_the_last() -> None:
    tokenizer: Any = SimpleNamespace(pass_frames=128)
    assert [PartTokenizer(tokenizer, wanted, threads=1).batch_frames for wanted in (1, 128, 200)] == [128, 128, 256]


# ---- the identity --------------------------------------------------------------------------------


def test_on_a_cpu_the_identity_has_no_new_key() -> None:
    identity = load_tokenizer("dvae-small").identity()
    keys = {"name", "weights_sha256", "vocab_size", "grid", "input_px", "dtype", "device_kind"}
    assert identity.model_dump(mode="json").keys() == keys
    on_gpu = identity.model_copy(update={"device_kind": "cuda", "frames_per_pass": 128})
    assert on_gpu.model_dump(mode="json").keys() == keys | {"frames_per_pass"}
    assert TokenizerIdentity(**on_gpu.model_dump()) == on_gpu


def test_boards_of_several_models_make_one_token_set(recipe: TokenizeRecipe) -> None:
    assert make_token_plan(recipe, PLAN).tokenizer == load_tokenizer("dvae-small").identity()
    on_gpu = make_token_plan(recipe, PLAN, "cuda").tokenizer
    assert (on_gpu.device_kind, on_gpu.frames_per_pass) == ("cuda", 128)
    chosen = recipe.model_copy(update={"tokenizer_pass_frames": 32})
    assert make_token_plan(chosen, PLAN, "cuda").tokenizer.frames_per_pass == 32
    commit = TokenPartCommit(
        part=0, num_samples=1, num_rows=1, sha256="", num_bytes=0, frames_commit="", token_plan="", gpu_model="H200"
    )
    assert commit.model_dump()["gpu_model"] == "H200"
    assert commit.digest() == commit.model_copy(update={"gpu_model": None}).digest()


def test_a_set_that_names_a_board_is_gone_on_with_under_its_own_digest(recipe: TokenizeRecipe, tmp_path: Path) -> None:
    recipe = recipe.model_copy(update={"tokenizer_pass_frames": 16})  # what it was made with
    before = changed(make_token_plan(recipe, PLAN, "cuda"), device_kind="NVIDIA A100-SXM4-80GB")
    write_token_plan(tmp_path, before)
    found = find_token_plan(tmp_path, recipe, PLAN, overwrite=False)
    settled = write_or_check_token_plan(tmp_path, make_token_plan(recipe, PLAN, "cuda"))
    assert found == settled == before
    assert settled.digest() == before.digest()
    with pytest.raises(UserError, match=r"tokenizer\.device_kind 'cuda' there, 'cpu' here"):
        write_or_check_token_plan(tmp_path, make_token_plan(recipe, PLAN, "cpu"))


@pytest.mark.parametrize(
    ("key", "there", "here"), [("frames_per_pass", 64, 16), ("frames_per_pass", 16, 64), ("compiled", True, False)]
)
def test_what_differs_is_named_also_where_one_does_not_write_it(
    recipe: TokenizeRecipe, tmp_path: Path, key: str, there: Any, here: Any
) -> None:
    write_token_plan(tmp_path, changed(make_token_plan(recipe, PLAN), **{key: there}))
    with pytest.raises(UserError, match=rf"output: tokenizer.{key} {there} there, {here} here\. "):
        write_or_check_token_plan(tmp_path, changed(make_token_plan(recipe, PLAN), **{key: here}))
    assert read_token_plan(tmp_path) == changed(make_token_plan(recipe, PLAN), **{key: there})


# ---- verification --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device_kind", "gpu_model", "here", "same"),
    [
        ("cpu", None, None, True),
        ("cuda", "H200", "H200", True),
        ("cuda", "A100", "H200", False),
        ("cuda", None, "H200", False),
        ("H200", None, "H200", True),  # a set that names the board
        ("A100", None, "H200", False),
    ],
)
def test_bits_are_compared_where_the_same_board_made_the_part(
    tmp_path: Path, device_kind: str, gpu_model: str | None, here: str | None, same: bool
) -> None:
    token_set = make_token_set(tmp_path, num_samples=2)
    made_by = token_set.manifest.tokenizer.model_copy(update={"device_kind": device_kind})
    path = token_set.path / "part-00000.json"
    commit = TokenPartCommit.model_validate_json(path.read_text())
    path.write_text(commit.model_copy(update={"gpu_model": gpu_model}).model_dump_json())
    seen: Any = SimpleNamespace(path=token_set.path, manifest=SimpleNamespace(tokenizer=made_by))
    tokenizer: Any = SimpleNamespace(identity=made_by.by_kind, gpu_model=lambda: here)
    assert _made_here(seen, 0, tokenizer) == same
    assert TokenSet(token_set.path).digest == token_set.digest


def test_every_dtype_has_a_floor() -> None:
    assert verify_tokens.OTHER_DEVICE.keys() == DTYPES.keys() == set(get_args(TokenizerDtype))


def test_a_few_other_ids_are_wrong_on_the_same_board_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_set = make_token_set(tmp_path, num_samples=24, sources_per_part=8)  # parts 0, 1, 2
    counts = {0: (9995, 10_000), 1: (9999, 10_000), 2: (10_000, 10_000)}
    monkeypatch.setattr(verify_tokens, "_tokenizer_like", lambda token_set, path: SimpleNamespace(pass_frames=16))
    monkeypatch.setattr(verify_tokens, "_compare_part", lambda parts, token_set, part, rows, problems: counts[part])
    for here, wrong in (({0, 1, 2}, [0, 1]), ({1}, [1]), (set(), [])):
        monkeypatch.setattr(verify_tokens, "_made_here", lambda token_set, part, tokenizer, here=here: part in here)
        problems: list[Any] = []
        assert compare_tokens(token_set.path, None, None, problems) == (29_994, 30_000)
        assert [Path(problem.path).stem for problem in problems] == [f"part-0000{part}" for part in wrong]


def test_a_tf32_set_is_checked_in_float32_where_there_is_no_gpu(tmp_path: Path) -> None:
    token_set = make_token_set(tmp_path, num_samples=2, tokenizer=load_tokenizer("dvae-small"), crop_px=224)
    made_by = token_set.manifest.tokenizer.model_copy(update={"device_kind": "cuda", "dtype": "tf32"})
    seen: Any = SimpleNamespace(path=token_set.path, manifest=SimpleNamespace(tokenizer=made_by))
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert verify_tokens._tokenizer_like(seen, None).identity() == token_set.manifest.tokenizer
