"""The published tokenizers against golden numbers of their original code, on made weights in the published key layout.

The published files themselves were never read here. Worst case measured on a CPU: vectors 6.5e-6, pictures 5.7e-6, both
of LlamaGen; values reach 3. A group norm's epsilon of 1e-5 instead of 1e-6 changes vectors by 1.4e-4.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.base import to_unit
from bevt_core.tokenizers.codebooks import CodebookTokenizer
from bevt_core.tokenizers.families import BUILT_IN, family_of
from bevt_core.tokenizers.published.convert import convert_checkpoint
from schemas.errors import UserError
from tests.support.published_weights import made_frames, made_state

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
NESTING = {"vqkd": "model", "llamagen": "model"}  # where the published file has its tensors; the others: state_dict
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KINDS = sorted(path.stem for path in GOLDEN.glob("*.npz"))
EXTRA = {  # in the published file, not in the golden one
    "vqkd": ("teacher_model.visual.proj", "scaling_layer.shift"),
    "ibq": ("model_ema.num_updates",),
    "magvit2": ("model_ema.num_updates",),
}


def golden_of(kind: str) -> tuple[dict[str, Any], Any]:
    arrays = np.load(GOLDEN / f"{kind}.npz")
    return json.loads(str(arrays["source"])), arrays


def published(kind: str, path: Path) -> Path:
    """A checkpoint as the original training code saves it, with made weights."""
    state = made_state(golden_of(kind)[0]["shapes"])
    state |= {key: torch.zeros(2) for key in EXTRA.get(kind, ())}
    torch.save({NESTING.get(kind, "state_dict"): state, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind, and the folder of its converted tokenizer."""
    place = tmp_path_factory.mktemp(request.param)
    size_px = golden_of(request.param)[0]["size_px"]
    convert_checkpoint(request.param, published(request.param, place / "made.pth"), place / "out", input_px=size_px)
    return request.param, place / "out"


def test_every_kind_with_published_weights_has_golden_numbers() -> None:
    assert {kind for kind in BUILT_IN if family_of(kind).convert} == set(KINDS)


def test_ids_are_equal_and_vectors_and_pictures_agree(case: tuple[str, Path]) -> None:
    kind, folder = case
    source, golden = golden_of(kind)
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, CodebookTokenizer)
    frames = torch.from_numpy(made_frames(len(golden["ids"]), source["size_px"]))
    ids = tokenizer.encode(frames)
    assert len(ids.unique()) > 8
    np.testing.assert_array_equal(ids, golden["ids"])
    with torch.inference_mode():
        np.testing.assert_allclose(tokenizer.vectors(to_unit(frames)), golden["vectors"], **CLOSE)
        assert tokenizer.can_decode == ("drawn" in golden)
        if tokenizer.can_decode:
            drawn = 2 * tokenizer._decode_pass(ids)[:, :, ::5, ::5] - 1
            np.testing.assert_allclose(drawn, golden["drawn"], **CLOSE)


def test_ids_do_not_depend_on_batch_size_or_threads(case: tuple[str, Path]) -> None:
    tokenizer = load_tokenizer(case[1])
    frames = torch.from_numpy(made_frames(5, tokenizer.input_px))
    whole = tokenizer.encode(frames)
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in frames.split(2)]), whole)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(tokenizer.encode(frames), whole)
    finally:
        torch.set_num_threads(before)


def test_the_card_says_what_was_not_checked(case: tuple[str, Path]) -> None:
    assert "not checked on the published file" in " ".join((case[1] / "CARD.md").read_text().split())


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_and_a_missing_tensor_are_one_error_that_names_it(kind: str, tmp_path: Path) -> None:
    path = published(kind, tmp_path / "made.pth")
    content = torch.load(path)
    (nesting, state) = next(item for item in content.items() if isinstance(item[1], dict))
    torch.save({nesting: state | {"encoder.extra.weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=r"made\.pth: encoder\.extra\.weight: (not a key of |has no average)"):
        convert_checkpoint(kind, path, tmp_path / "out")
    for suffix in ("conv1.weight", "norm1.weight"):
        gone = [key for key in state if key.endswith(suffix) and key.startswith("encoder.")]
        if gone:
            break
    torch.save({nesting: {key: value for key, value in state.items() if key != gone[0]}}, path)
    with pytest.raises(UserError, match=r"made\.pth: .*" + suffix.replace(".", r"\.?")):
        convert_checkpoint(kind, path, tmp_path / "out", input_px=golden_of(kind)[0]["size_px"])
    assert not (tmp_path / "out").exists()


def test_the_defaults_are_the_published_sizes() -> None:
    for kind in KINDS:
        family = family_of(kind)
        sizes = family.sizes()
        assert (family.input_px, sizes.stride) == (224, 16)
        assert sizes.vocab_size in (8192, 16384)
