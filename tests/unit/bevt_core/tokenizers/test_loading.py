"""Resolution of tokenizer names, and the default tokenizer of recipes."""

from pathlib import Path

import pytest

from bevt_core.tokenizers import PRETRAINED, find_made_by, find_tokenizer, load_tokenizer, resolve_default
from schemas.errors import UserError
from tests.support.tiny_jobs import save_tiny_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEVT_TOKENIZERS", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_without_the_published_weights_the_default_is_the_embedded_one_with_a_warning() -> None:
    said: list[str] = []
    assert resolve_default("default", said.append) == "dvae-small"
    assert len(said) == 1 and "bevt tokenizer fetch dalle" in said[0] and "'dvae-small' is used" in said[0]
    assert find_tokenizer("dvae-small") == PRETRAINED / "dvae-small"


def test_with_the_published_weights_the_default_is_the_published_one(cache: Path) -> None:
    cache.mkdir()
    save_tiny_tokenizer(cache / "dalle")
    said: list[str] = []
    assert resolve_default("default", said.append) == str(cache / "dalle")
    assert said == []


def test_a_given_name_is_kept_and_must_exist() -> None:
    assert resolve_default("dalle", pytest.fail) == "dalle"
    with pytest.raises(UserError, match="tokenizer 'dalle' not found"):
        find_tokenizer("dalle")


def test_a_token_set_s_tokenizer_is_found_by_its_weights(cache: Path) -> None:
    assert find_made_by(load_tokenizer("dvae-small").identity()) == PRETRAINED / "dvae-small"
    cache.mkdir()
    mine = save_tiny_tokenizer(cache / "mine")
    (cache / "broken").mkdir()
    (cache / "broken" / "tokenizer.json").write_text("{}")
    identity = load_tokenizer("mine").identity()
    assert find_made_by(identity) == mine
    with pytest.raises(UserError, match=r"no tokenizer with the weights 0{12} .*give its folder as `tokenizer`"):
        find_made_by(identity.model_copy(update={"weights_sha256": "0" * 64}))
