"""The model against golden numbers that the original implementation computed from the same weights (golden/oracle).

Worst case measured on CPU: features 2.6e-6, losses 0, gradient norms 2.6e-6 relative, logits 1.2e-7.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bevt_core.models.bevt import Bevt
from bevt_core.models.build import build_classifier
from bevt_core.weights.model_files import import_official
from bevt_core.weights.other_projects import OFFICIAL_KEYS
from bevt_core.weights.surgery import classifier_from_pretrained, rename


@pytest.fixture(scope="module")
def weights(oracle: Path) -> Path:
    return oracle / "official_tiny.safetensors"


@pytest.fixture(scope="module")
def golden(oracle: Path) -> Mapping[str, np.ndarray]:
    return np.load(oracle / "official_tiny.npz")


@pytest.fixture(scope="module")
def model(weights: Path) -> Bevt:
    model = import_official(weights).model
    assert isinstance(model, Bevt)
    return model.eval()


def wave(step: np.ndarray, *shape: int) -> Tensor:
    """The oracle's inputs: sin(i * step) in float64, then float32."""
    values = np.sin(np.arange(math.prod(shape), dtype=np.float64) * float(step))
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def video_batch(golden: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    clip_BCTHW = wave(golden["video_step"], 2, 3, int(golden["T"]), 224, 224)
    tokens_BTHW = torch.from_numpy(golden["video_tokens"].astype(np.int64))
    return clip_BCTHW, tokens_BTHW, torch.from_numpy(golden["video_mask"])


def image_batch(golden: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    image_BCTHW = wave(golden["image_step"], 3, 3, 224, 224).unsqueeze(2)
    tokens_BTHW = torch.from_numpy(golden["image_tokens"].astype(np.int64)).unsqueeze(1)
    return image_BCTHW, tokens_BTHW, torch.from_numpy(golden["image_mask"]).unsqueeze(1)


def test_sizes_come_from_the_tensors(model: Bevt) -> None:
    sizes = {key: model.config[key] for key in ("embed_dim", "depths", "num_heads", "window", "patch", "vocab_size")}
    assert sizes == {
        "embed_dim": 16,
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 4, 8),
        "window": (8, 7, 7),
        "patch": (2, 4, 4),
        "vocab_size": 64,
    }


@torch.no_grad()
def test_features_agree(model: Bevt, golden: Mapping[str, np.ndarray]) -> None:
    clip, _, mask = video_batch(golden)
    video_BND = model.features(clip, mask, stream="video")
    assert video_BND.shape == (2, 16 * 14 * 14, 128)
    np.testing.assert_allclose(video_BND[:, ::37], golden["video_features"], atol=1e-4, rtol=0)

    image, _, mask = image_batch(golden)
    image_BND = model.features(image, mask, stream="image")
    assert image_BND.shape == (3, 14 * 14, 128)
    np.testing.assert_allclose(image_BND[:, ::13], golden["image_features"], atol=1e-4, rtol=0)


def test_losses_and_gradients_agree(model: Bevt, golden: Mapping[str, np.ndarray]) -> None:
    loss_mvm = model.loss(*video_batch(golden), stream="video")
    loss_mim = model.loss(*image_batch(golden), stream="image")
    assert loss_mvm.item() == pytest.approx(golden["loss_mvm"].item(), abs=1e-5)
    assert loss_mim.item() == pytest.approx(golden["loss_mim"].item(), abs=1e-5)

    model.zero_grad()
    (loss_mim + loss_mvm).backward()
    norms = {name: torch.tensor(norm) for name, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True)}
    expected = rename(norms, OFFICIAL_KEYS, dropped="$^", source="the oracle").state
    assert set(expected) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(expected[name].item(), rel=1e-3), name


@torch.no_grad()
def test_finetuning_logits_agree(model: Bevt, weights: Path, golden: Mapping[str, np.ndarray]) -> None:
    source = load_file(weights)
    sizes = {key: model.config[key] for key in ("embed_dim", "depths", "num_heads", "patch")}
    classifier = build_classifier(**sizes, window=(16, 7, 7), num_classes=10).eval()
    state, dropped = classifier_from_pretrained(model.state_dict(), old_window=(8, 7, 7), window=(16, 7, 7))
    fc = {"fc.weight": source["finetune.fc.weight"], "fc.bias": source["finetune.fc.bias"]}
    classifier.load_state_dict({**state, **fc})
    assert {key.split(".")[0] for key in dropped} == {"stems", "decoders", "lm_head", "mask_token"}

    logits_BV = classifier(wave(golden["finetune_step"], 1, 3, int(golden["finetune_T"]), 224, 224))
    np.testing.assert_allclose(logits_BV, golden["finetune_logits"], atol=1e-4, rtol=0)
