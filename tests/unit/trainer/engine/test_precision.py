"""Autocast in evaluation: chosen by device or user, applied to the model only, and recorded in the results."""

import functools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bevt_core.console import command_line
from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.storage.files import write_record
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.base import Record
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard, EvaluationPlan, ExtractionPlan
from schemas.recipes import ClipSampling, EvalViews, FinetuneRecipe, Precision
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.media import moving_frames, write_video
from trainer.clips import multi_view as views
from trainer.clips.multi_view import ViewPlan, map_parts
from trainer.clips.sources import StoreClips
from trainer.distributed.world import World
from trainer.engine.evaluations import never
from trainer.engine.precision import AUTO, AUTOCAST, autocast, resolve
from trainer.finetune.validation import Validation
from trainer.probes.probe import probe
from trainer.testing.evaluate import evaluate, score
from trainer.testing.extract import extract
from trainer.testing.predict import predict
from trainer.testing.temporal import analyse_temporal

CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
CARD = ClassifierCard(
    title="test",
    classes=("no", "yes"),
    sampling=ClipSampling(kind="dense", frames=4, interval=1),
    crop_px=32,
    views=EvalViews(clips=1, crops=1, short_side_px=32),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreClips:
    return StoreClips(make_token_set(tmp_path_factory.mktemp("set"), num_samples=8).frames.path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights whose logits are spread like those of a trained one."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_classifier(**SWIN_SIZES["nano"], num_classes=2)
    torch.nn.init.normal_(model.fc.weight, std=0.5)
    save_weights(folder / "weights.safetensors", model)
    write_record(folder / "classifier.json", CARD)
    return folder


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Precision]:
    """The precisions in which views passed through a model."""
    entered: list[Precision] = []

    def watched(device: torch.device, precision: Precision) -> torch.autocast:
        entered.append(precision)
        return autocast(device, precision)

    monkeypatch.setattr(views, "autocast", watched)
    return entered


def test_auto_is_bf16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        # emulated bf16, which GPUs before sm80 also "support", is slower than fp32
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: including_emulation or native,
        )
        assert resolve("auto", gpu) == chosen and resolve("auto", CPU) == "fp32"
        assert [resolve(name, device) for name in AUTOCAST for device in (CPU, gpu)] == [
            name for name in AUTOCAST for _ in range(2)
        ]
    with pytest.raises(
        UserError, match=r"precision 'bf61': did you mean 'bf16'\?.*expected one of auto, fp32, bf16, fp16"
    ):
        resolve("bf61", CPU)


def test_names_are_the_recipes_and_the_command_lines() -> None:
    assert tuple(AUTOCAST) == get_args(Precision)
    assert get_args(get_args(command_line.Precision)[0]) == (AUTO, *AUTOCAST)


def test_autocast_is_of_the_model_and_ends_with_it() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in AUTOCAST.items():
        with autocast(CPU, precision):
            assert layer(x).dtype == (dtype or torch.float32)
    with autocast(CPU, "bf16"), autocast(CPU, "fp32"):
        assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.float32


def test_scores_in_bf16_are_near_those_in_fp32(store: StoreClips, checkpoint: Path) -> None:
    """Bounds are twice the worst of 20 seeds of these weights: scores 0.031 apart in bf16, 0.0041 in fp16."""
    model = load_weights(checkpoint / "weights.safetensors").eval()
    plan = ViewPlan(CARD.sampling, CARD.crop_px, CARD.views, "normal", seed=0)

    def scores(precision: Precision) -> np.ndarray:
        work = functools.partial(score, model)
        parts = map_parts(work, store, plan, range(8), device=CPU, precision=precision, num_workers=0)
        return np.stack([row["scores"] for _, rows in parts for row in rows])

    exact, bf16, fp16 = map(scores, AUTOCAST)
    assert 1e-4 < np.abs(bf16 - exact).max() < 0.062
    assert 1e-5 < np.abs(fp16 - exact).max() < 0.0082
    np.testing.assert_allclose(bf16.sum(axis=1), 1, atol=1e-6)  # the softmax was in fp32


def test_another_precision_needs_another_folder(
    store: StoreClips, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slow in ("write_tables", "cost_of_views"):  # slow, and not tested here
        monkeypatch.setattr(f"trainer.testing.evaluate.{slow}", lambda *args: {})
    plans: tuple[tuple[str, type[Record]], ...] = (
        ("{}/evaluation-plan.json", EvaluationPlan),
        ("{}.parquet.json", ExtractionPlan),
    )
    for first, then in (("fp32", "bf16"), ("bf16", "fp32")):
        features = tmp_path / f"{first}.parquet"
        assert evaluate(checkpoint, store, precision=first, out=tmp_path / first)["precision"] == first
        assert json.loads((tmp_path / first / "evaluation.json").read_text())["precision"] == first
        with pytest.raises(
            UserError, match=rf"another evaluation \(precision: {first} stored, {then} now\); give another"
        ):
            evaluate(checkpoint, store, precision=then, out=tmp_path / first)
        assert extract(checkpoint, store, features, precision=first)["precision"] == first
        with pytest.raises(UserError, match=rf"other features \(precision: {first} stored, {then} now\); give another"):
            extract(checkpoint, store, features, precision=then)
        for name, kind in plans:
            text = (tmp_path / name.format(first)).read_text()
            plan = kind.model_validate_json(text)
            # records written before autocast existed have no such key; they and their digests must not change
            assert ("precision" in text, "precision" in plan.canonical_json()) == (first == "bf16", first == "bf16")
            assert plan.precision == first  # type: ignore[attr-defined]
    exact, bf16 = (
        np.array(pq.read_table(tmp_path / f"{precision}.parquet")["features"].to_pylist())
        for precision in ("fp32", "bf16")
    )
    # the worst of 20 seeds was 0.9 %: a few roundings, each to 2^-9 of a value
    assert 0.001 < np.linalg.norm(bf16 - exact) / np.linalg.norm(exact) < 0.018


def test_every_command_that_runs_a_model_uses_the_precision(
    store: StoreClips, checkpoint: Path, tmp_path: Path, used: list[Precision], monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = store.subset(store.items[:6]), store.subset(store.items[6:])
    probe(checkpoint, *halves, tmp_path / "probe", kinds=["knn"], precision="bf16")
    assert json.loads((tmp_path / "probe" / "test-pooled.parquet.json").read_text())["precision"] == "bf16"
    write_video(tmp_path / "a.mp4", moving_frames(6))
    predict(checkpoint, [str(tmp_path / "a.mp4")], precision="bf16")
    assert used == ["bf16"] * (6 + 2 + 1)  # videos, one part each

    def passed_on(*args: object, precision: str, **kwargs: object) -> None:
        raise UserError(precision)

    monkeypatch.setattr("trainer.testing.temporal.evaluate", passed_on)
    with pytest.raises(UserError, match=r"^bf16$"):
        analyse_temporal(checkpoint, store, tmp_path / "temporal", precision="bf16")


def test_validation_uses_the_precision_of_the_recipe(
    store: StoreClips, checkpoint: Path, used: list[Precision]
) -> None:
    small = ["sampling.frames=4", "augment.crop_px=32", "views.short_side_px=32", "loop.precision=bf16"]
    recipe = load_recipe("nano_finetune", RECIPES, [*small, "loop.num_workers=0"])
    assert isinstance(recipe, FinetuneRecipe)
    model: Any = load_weights(checkpoint / "weights.safetensors")
    validation = Validation(model, store, recipe, World(rank=0, size=1, device=CPU))
    assert validation(1, never)["val_videos"] == 8 and set(used) == {"bf16"}
