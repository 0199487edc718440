"""Initial weights of models with one or several targets."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bevt_core.models.bevt import Bevt, Stream
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.errors import UserError
from trainer.setup.start_from import start_classifier, start_from

JOINT: tuple[Stream, ...] = ("video", "image")
HEAD = ["lm_head_other.weight", "lm_head_other.bias"]


def model_of(
    heads: Mapping[str, int],
    streams: tuple[Stream, ...] = JOINT,
    seed: int = 0,
    first: str | None = None,
    vocab_size: int = 32,
) -> Bevt:
    torch.manual_seed(seed)
    sizes = SWIN_SIZES["nano"] | {"vocab_size": vocab_size}
    return build_bevt(**sizes, streams=streams, more_heads=heads, first_target=first)


def started(folder: Path, source: Bevt, model: Bevt) -> list[str]:
    """Start `model` from the weights of `source`; return the parameters that keep their initial values."""
    save_weights(folder / "weights.safetensors", source)
    loaded = load_weights(folder / "weights.safetensors")
    assert loaded.config.get("more_heads") == source.config.get("more_heads")
    return start_from(model, str(folder / "weights.safetensors"))


def test_a_new_target_gets_a_new_head(tmp_path: Path) -> None:
    source, model = model_of({}), model_of({"other": 48}, seed=1)
    assert started(tmp_path, source, model) == HEAD
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)


def test_a_target_that_is_dropped_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, model = model_of({"other": 48}), model_of({}, seed=1)
    with caplog.at_level(logging.INFO):
        assert started(tmp_path, source, model) == []
    assert "lm_head_other not used, since the recipe has no such target" in caplog.text
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)


def test_the_joint_stage_keeps_the_heads_of_the_image_stage(tmp_path: Path) -> None:
    source, model = model_of({"other": 48}, ("image",)), model_of({"third": 20, "other": 48}, seed=1)
    fresh = started(tmp_path, source, model)
    assert {name for name in fresh if not name.startswith("decoders.video.")} == {
        "lm_head_third.weight",
        "lm_head_third.bias",
    }
    assert torch.equal(model.head("other").weight, source.head("other").weight)
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)


def test_a_target_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"lm_head_other predicts 48 tokens, but the recipe's lm_head_other 50; use tok"
    ):
        started(tmp_path, model_of({"other": 48}), model_of({"other": 50}))


def test_named_targets_keep_their_heads_in_any_order(tmp_path: Path) -> None:
    source = model_of({"other": 48}, first="main")
    model = model_of({"main": 32}, seed=1, first="other", vocab_size=48)
    assert started(tmp_path, source, model) == []
    assert torch.equal(model.lm_head.weight, source.head("other").weight)
    assert torch.equal(model.head("main").weight, source.lm_head.weight)
    alone = model_of({}, seed=1, first="other", vocab_size=48)
    assert started(tmp_path, source, alone) == []
    assert torch.equal(alone.lm_head.weight, source.head("other").weight)


def test_a_first_target_of_another_name_gets_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, model = model_of({}, first="main"), model_of({}, seed=1, first="third", vocab_size=20)
    with caplog.at_level(logging.INFO):
        assert started(tmp_path, source, model) == ["lm_head.weight", "lm_head.bias"]
    assert "lm_head not used" in caplog.text
    unnamed = model_of({}, seed=1, vocab_size=20)
    with pytest.raises(
        UserError, match=r"vocab_size is 32, but the recipe's model has 20; use tokens of the tokenizer"
    ):
        started(tmp_path, source, unnamed)
    mixed = model_of({"main": 32}, seed=1)  # its first target, without a name, is not the source's
    assert started(tmp_path, source, mixed) == ["lm_head.weight", "lm_head.bias"]
    assert torch.equal(mixed.head("main").weight, source.lm_head.weight)


def test_fine_tuning_starts_from_a_model_with_several_targets(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", model_of({"an-other_2": 48}))
    classifier = build_classifier(**SWIN_SIZES["nano"], num_classes=3)
    assert start_classifier(classifier, str(tmp_path / "weights.safetensors")) == ["fc.weight", "fc.bias"]
