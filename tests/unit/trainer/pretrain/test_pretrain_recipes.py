"""Every shipped pretraining recipe: its model builds, and its batches, steps and learning rates are as published."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bevt_core.masking import draw_mask
from schemas.errors import UserError
from schemas.recipes import OnlineTokens, PretrainRecipe
from schemas.recipes.loading import load_recipe, recipe_names
from trainer.data.order import StreamOrder
from trainer.pretrain.plan import pretrain_workload
from trainer.pretrain.streams import MASKS
from trainer.setup.cost import hidden_share, pretrain_cost
from trainer.setup.models import build_model, tokens_per_side, tubelet_of
from trainer.setup.plan import make_plan

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"
LOADED = {name: load_recipe(name, RECIPES) for name in recipe_names(RECIPES)}
SHIPPED = {name: recipe for name, recipe in LOADED.items() if isinstance(recipe, PretrainRecipe)}
SMALL = {"nano": (64, 8), "laptop": (112, 14)}  # name of recipes for a CPU -> crop in pixels, side of the token grid
PAPERS = {name: recipe for name, recipe in SHIPPED.items() if name.partition("_")[0] not in SMALL}
SAMPLES = {"k400": 240_000, "imagenet": 1_281_000}  # of the training sets, in parts of 200
NUM_SAMPLES_NANO = 6_400
EPOCHS_800, EPOCHS_150 = 500_000, 140_550  # 800 x 625 steps of 2048 images, 150 x 937 steps of 256 videos
STEPS = {"image": EPOCHS_800, "video": EPOCHS_150}
STEPS_OF = {"ablations/table7_image_k400_frames": 4273 * 117}


def dataset_of(tokens):
    return (tokens.frames if isinstance(tokens, OnlineTokens) else tokens).split("/")[1]


def planned(recipe, world_size, memory="recipe", cost=None):
    orders = {}
    for name, stream in recipe.streams.items():
        num_samples = SAMPLES.get(dataset_of(stream.tokens), NUM_SAMPLES_NANO)
        orders[name] = StreamOrder(
            np.full(num_samples // 200, 200), stream.global_batch, stream.window_parts, (0, name)
        )
    workload = pretrain_workload(recipe, orders, {})
    return make_plan(workload if cost is None else replace(workload, cost=cost), world_size, memory)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_builds_its_model_and_draws_its_masks(name):
    recipe = SHIPPED[name]
    with torch.device("meta"):
        model = build_model(recipe.model, tuple(recipe.streams))
    assert set(model.route) == set(recipe.streams)
    assert model.lm_head.out_features == recipe.model.vocab_size
    for stream, config in recipe.streams.items():
        crop_px, side = SMALL.get(name.partition("_")[0], (224, 14))
        rows, columns = map(int, tokens_per_side(recipe.model.encoder, crop_px))
        assert rows == columns == side and config.mask.kind in MASKS[stream]
        grid_THW = (config.clip_frames // tubelet_of(stream, recipe.model), rows, columns)
        frames_THWC = np.zeros((config.clip_frames, crop_px, crop_px, 3), np.uint8)
        mask_THW = draw_mask(config.mask, np.random.default_rng(0), grid_THW, frames_THWC)
        assert mask_THW.shape == grid_THW and 0 < mask_THW.mean() <= config.mask.ratio


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_recipe_has_its_steps_batches_and_rates(name):
    recipe = PAPERS[name]
    plan = planned(recipe, world_size=32)
    leading = "video" if "video" in recipe.streams else "image"
    total = STEPS_OF.get(name, STEPS[leading])
    assert plan.steps == total
    assert {stream: order.global_batch for stream, order in plan.orders.items()} == {
        stream: {"video": 256, "image": 2048}[stream] for stream in recipe.streams
    }
    warm = plan.schedule.warmup_steps
    assert warm == recipe.optim.warmup_epochs * plan.orders[leading].steps_per_epoch
    peak = {"video": 5e-4, "image": 1.5e-3}[leading]
    rates = [recipe.optim.lr * plan.schedule.share(step) for step in (0, warm, total // 2, total)]
    assert rates[0] == pytest.approx(0.1 * peak) and rates[3] == pytest.approx(0)
    assert rates[1] == pytest.approx(peak * 0.5 * (1 + math.cos(math.pi * warm / total)))
    assert rates[2] == pytest.approx(peak / 2, rel=1e-4)


@pytest.mark.parametrize("name", PAPERS)
def test_other_numbers_of_processes_keep_the_batch_and_the_micro_batch(name):
    recipe = PAPERS[name]
    at_32 = planned(recipe, world_size=32)
    for world_size in (1, 3, 8, 64):
        plan = planned(recipe, world_size)
        for stream, order in plan.orders.items():
            assert plan.micro_batch(stream) * plan.micro_batches * world_size >= order.global_batch
            assert plan.micro_batch(stream) <= at_32.micro_batch(stream)
        assert plan.samples_seen(stream) == at_32.samples_seen(stream)
    with pytest.raises(UserError, match="leaves some of them empty"):
        planned(recipe, world_size=4096)


def test_weights_of_the_small_recipes_fit_one_another():
    """Their encoders; the LM head has the codes of the tokenizer."""
    encoder = SHIPPED["nano_joint"].model.encoder
    pretrained = ("nano_image", "nano_video", "laptop_image", "laptop_video", "laptop_joint")
    assert [SHIPPED[name].model.encoder for name in pretrained] == [encoder] * 5
    assert {SHIPPED[f"laptop_{stage}"].model.vocab_size for stage in ("image", "video", "joint")} == {1024}
    assert [LOADED[name].encoder for name in ("nano_finetune", "laptop_finetune")] == [encoder] * 2


def test_ablations_differ_from_their_base_only_in_the_stated_keys():
    joint = PAPERS["joint_swin_base_k400_in1k"]

    def changes(name):
        return differing(joint.model_dump(), PAPERS[f"ablations/{name}"].model_dump())

    assert changes("table6_separate_encoders") == {"title", "model.share_encoder"}
    assert changes("table6_joint_scratch") == {"title", "init"}
    assert changes("table7_joint_k400_frames") == {"title", "init", "streams.image.tokens"}
    assert changes("table9_tube_30") == {"title", "streams.video.mask.ratio"}
    assert changes("peco_joint") == {"title", "init", "streams.video.tokens", "streams.image.tokens"}
    assert PAPERS["ablations/table8_timesformer_joint"].model.encoder.kind == "timesformer"
    for encoder, peco in (("timesformer", "table8_timesformer_joint_peco"), ("swin", "peco_joint")):
        for kind in ("vqkd", "ibq"):
            ours = PAPERS[f"ablations/ours_{encoder}_joint_{kind}"]
            changed = differing(PAPERS[f"ablations/{peco}"].model_dump(), ours.model_dump())
            assert changed == {"title", "init", "streams.video.tokens", "streams.image.tokens"}
            assert "(ours)" in ours.title and ours.init == f"runs/ours_{encoder}_image_{kind}"


def test_every_ablation_starts_from_an_existing_recipe():
    for recipe in PAPERS.values():
        if recipe.init is not None:
            assert {Path(recipe.init).name} & {Path(name).name for name in PAPERS}, recipe.init


@pytest.mark.slow
def test_the_cost_of_a_step_follows_from_the_architecture():
    """The joint step of Swin-B: 224 T multiply-adds for 256 clips and 2048 images, with a masked-only LM head."""
    recipe = PAPERS["joint_swin_base_k400_in1k"]
    assert hidden_share(recipe, "video", (14, 14)) == pytest.approx(0.374, abs=0.02)
    crops, batch, micro_batch = {"video": 224, "image": 224}, {"video": 256, "image": 2048}, {"video": 8, "image": 64}
    counted = functools.cache(functools.partial(pretrain_cost, recipe, crops))
    cost, checkpointed = (counted(on).step(batch, micro_batch, shards=1) for on in (False, True))
    assert cost.flops / 2e12 == pytest.approx(224, rel=0.02)
    assert cost.model_flops == cost.flops == checkpointed.model_flops
    assert 1.2 < checkpointed.flops / cost.flops < 4 / 3  # the encoder's forward pass is repeated
    # tracked tensor by tensor under an emulated bf16 autocast, fused attention: 17.0 and 3.2 GB
    assert 17.0e9 < cost.activation_bytes < 1.25 * 17.0e9
    assert 3.2e9 < checkpointed.activation_bytes < 1.5 * 3.2e9
    assert cost.state_bytes == 16 * 109_679_048  # 101.3 M and the LM head's 8.4 M
    for memory_gb, clips in ((141, 32), (80, 16), (32, 8), (24, 4)):  # per micro-batch, on 8 GPUs
        plan = planned(recipe, 8, memory_gb, counted)
        assert (plan.micro_batch("video"), plan.micro_batch("image")) == (clips, 8 * clips), plan.reason
        assert not plan.recipe.loop.activation_checkpointing


def differing(one, other, prefix=""):
    """Return the dotted keys in which two nested mappings differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return set() if one == other else {prefix.removesuffix(".")}
    return {
        key
        for name in one.keys() | other.keys()
        for key in differing(one.get(name), other.get(name), f"{prefix}{name}.")
    }
