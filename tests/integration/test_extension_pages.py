"""The code of docs/how-to/add-a-dataset.md, add-a-mask.md and add-an-encoder.md does what these pages promise."""

import importlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from bevt_core import masking
from bevt_core.models import build
from bevt_core.models.attention_maps import MAPS
from bevt_core.models.build import BACKBONES, build_bevt, build_classifier
from bevt_core.rng import rng_for
from pipeline import sources
from pipeline.recipes import PIPELINE_RECIPES
from schemas.models import EncoderConfig
from schemas.recipes.loading import load_recipe
from tests.conftest import REPO
from trainer.finetune.model import LAYERS
from trainer.setup.models import HALVINGS

PAGES = REPO / "docs" / "how-to"
BLOCK = re.compile(r"```python\n# ([\w/.]+)[^\n]*\n(.*?)```", re.DOTALL)


def names_of(page: str) -> dict[str, Any]:
    """The names that the Python blocks of a page define, each block with those of the file that it belongs to."""
    found: dict[str, Any] = {}
    for path, code in BLOCK.findall((PAGES / page).read_text()):
        old = (REPO / path).is_file() and not path.startswith("tests")
        module = importlib.import_module(path[:-3].replace("/", ".")) if old else None
        found = {**(vars(module) if module else {}), **found}
        exec(compile(code, f"{page}: {path}", "exec"), found)
    return found


def test_the_data_set_of_the_page_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = names_of("add-a-dataset.md")
    monkeypatch.setitem(sources.SOURCES, "ucf101", names["list_ucf101"])
    names["test_ucf101"](tmp_path)


def test_the_recipe_of_the_page_about_data_sets_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"```yaml\n# pipeline/recipes/\S+\n(.*?)```", (PAGES / "add-a-dataset.md").read_text(), re.DOTALL
    )
    (tmp_path / "ucf101.yaml").write_text(text.replace("base: k400", f"base: {PIPELINE_RECIPES / 'k400'}"))
    assert load_recipe(str(tmp_path / "ucf101.yaml"), PIPELINE_RECIPES).title == "UCF-101, split 1"


def test_the_mask_of_the_page_hides_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    names = names_of("add-a-mask.md")
    names["test_future_hides_the_end"]()
    monkeypatch.setitem(masking.MASKERS, "future", names["future"])
    config = names["MORE_STRATEGIES"]["future"](0.25, 16)
    mask_THW = masking.draw_mask(config, rng_for(0), (8, 4, 4))
    assert mask_THW.mean() == 0.25 and mask_THW[6:].all()


def test_the_encoder_of_the_page_trains_in_both_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.BACKBONES, "conv", names_of("add-an-encoder.md")["ConvBackbone"])
    sizes = {"embed_dim": 16, "depth": 2, "patch": (2, 8, 8)}
    torch.manual_seed(0)
    model = build_bevt(vocab_size=32, encoder="conv", **sizes)
    losses = []
    for stages in ((), (0,)):
        model.encoders["shared"].checkpoint_activations(stages)
        for frames, stream in ((4, "video"), (1, "image")):
            tubelets = max(1, frames // 2)
            clip = torch.rand(1, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1))
            tokens, mask = (
                torch.ones(1, frames, 4, 4, dtype=torch.int64),
                torch.ones(1, tubelets, 4, 4, dtype=torch.bool),
            )
            losses.append(model.loss(clip, tokens, mask, stream=stream))
    assert losses[:2] == losses[2:]
    sum(losses).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    classifier = build_classifier(num_classes=3, encoder="conv", **sizes)
    assert classifier(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 3)


def test_the_tables_of_encoders_agree() -> None:
    """As add-an-encoder.md says: the kinds of recipes, the backbones, and what the trainer knows about each."""
    union, _ = get_args(EncoderConfig)
    kinds = {get_args(config.model_fields["kind"].annotation)[0] for config in get_args(union)}
    assert kinds == BACKBONES.keys() == HALVINGS.keys() == LAYERS.keys()
    assert len(MAPS) == len(kinds)
