"""Parameter groups as the original has them, and the learning rate as mmcv computes it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from schemas.recipes import OptimConfig, PretrainRecipe
from schemas.recipes.loading import load_recipe
from trainer.data.order import StreamOrder
from trainer.engine.optim import build_optimizer, layer_decay_share, param_groups, swin_layers, timesformer_layers
from trainer.engine.schedule import CosineSchedule
from trainer.finetune.model import build_from_recipe, lr_share
from trainer.pretrain.plan import pretrain_workload
from trainer.setup.models import build_model
from trainer.setup.plan import make_plan

RECIPES = Path(__file__).parents[4] / "trainer" / "recipes"


def test_norms_and_bias_tables_do_not_decay_and_everything_else_does():
    model = build_bevt(**SWIN_SIZES["nano"], vocab_size=32)
    decay = {name: g["weight_decay"] for g in param_groups(model, 0.05) for name in g["names"]}
    assert decay.keys() == {name for name, _ in model.named_parameters()}
    assert decay["encoders.shared.stages.0.blocks.0.norm1.weight"] == 0
    assert decay["norm.bias"] == decay["stems.video.norm.weight"] == 0
    assert decay["encoders.shared.stages.1.blocks.1.attn.relative_position_bias_table"] == 0
    assert decay["mask_token"] == decay["lm_head.bias"] == decay["lm_head.weight"] == 0.05
    assert decay["encoders.shared.stages.0.blocks.0.attn.qkv.bias"] == 0.05


def test_layer_decay_of_swin_base_has_28_layers_below_the_head():
    share = layer_decay_share(swin_layers((2, 2, 18, 2)), 0.9)
    assert share("stem.proj.weight") == pytest.approx(0.9**28)
    assert share("encoder.stages.0.blocks.0.mlp.fc1.weight") == pytest.approx(0.9**27)
    assert share("encoder.stages.3.merge.norm.weight") == pytest.approx(0.9**3)
    assert share("encoder.stages.3.blocks.1.mlp.fc1.weight") == pytest.approx(0.9)
    assert share("fc.weight") == share("norm.weight") == 1.0
    lower = layer_decay_share(swin_layers((2, 2, 18, 2)), 1.0, backbone_share=0.1)
    assert lower("encoder.stages.0.blocks.0.norm1.weight") == 0.1 and lower("fc.bias") == 1.0


def test_layer_decay_covers_every_parameter_of_a_classifier():
    groups = param_groups(
        build_classifier(**SWIN_SIZES["nano"], num_classes=4), 0.0, layer_decay_share(swin_layers((4, 2)), 0.5)
    )
    shares = {name: group["lr_share"] for group in groups for name in group["names"]}
    assert {name for name, share in shares.items() if share == 1.0} == {
        "norm.weight",
        "norm.bias",
        "fc.weight",
        "fc.bias",
    }
    assert set(shares.values()) == {0.5**layers for layers in range(9)}  # stem, 6 blocks, 1 merge


@pytest.mark.parametrize(
    ("recipe", "block_norm", "final_norm"),
    [
        ("finetune_k400_swin_base", 0.9**27, 1.0),
        ("finetune_ssv2_swin_base", 0.1, 0.1),
    ],
)
def test_mmcvs_quirks_are_a_choice(recipe, block_norm, final_norm):
    """Original: only the longest key that a name contains counts (ADR 53)."""
    loaded = load_recipe(recipe, RECIPES, ["optim.param_groups=mmcv"])
    plain = load_recipe(recipe, RECIPES)
    with torch.device("meta"):
        model = build_from_recipe(loaded, num_classes=2)
    groups = {}
    for config in (plain, loaded):
        optimizer = build_optimizer(model, config.optim, lr_share(config))
        groups[config.optim.param_groups] = {
            name: (group["weight_decay"], group["lr_share"])
            for group in optimizer.param_groups
            for name in group["names"]
        }
    table, norm = (
        "encoder.stages.0.blocks.0.attn.relative_position_bias_table",
        "encoder.stages.0.blocks.0.norm1.weight",
    )
    decay = loaded.optim.weight_decay
    assert groups["mmcv"][table] == (0.0, 1.0)
    assert groups["mmcv"][norm] == (decay, pytest.approx(block_norm))
    assert groups["mmcv"]["norm.weight"] == (0.0 if final_norm == 1.0 else decay, final_norm)
    assert groups["plain"][table] == groups["plain"][norm] == (0.0, pytest.approx(block_norm))
    assert groups["plain"]["norm.weight"] == (0.0, 1.0)
    same = {"encoder.stages.0.blocks.0.mlp.fc1.weight", "stem.proj.weight", "fc.weight", "fc.bias"}
    assert all(groups["mmcv"][name] == groups["plain"][name] for name in same)


def test_layer_decay_of_timesformer_counts_blocks_from_the_head():
    model = build_classifier(encoder="timesformer", embed_dim=12, depth=3, num_heads=2, grid=(2, 2, 2), num_classes=4)
    groups = param_groups(model, 0.0, layer_decay_share(timesformer_layers(3), 0.5))
    shares = {name: group["lr_share"] for group in groups for name in group["names"]}
    assert shares["fc.weight"] == shares["norm.bias"] == 1.0
    assert shares["encoder.blocks.2.mlp.fc1.weight"] == 0.5 and shares["encoder.blocks.0.attn.qkv.bias"] == 0.5**3
    assert shares["stem.proj.weight"] == shares["encoder.cls_token"] == shares["encoder.time_embedding"] == 0.5**4


def test_groups_learn_at_their_share_of_the_rate():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(
        model, OptimConfig(lr=0.1, weight_decay=0.05, warmup_epochs=0), lambda name: 0.5 if name == "0.weight" else 1.0
    )
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates == {"0.weight": 0.05, "0.bias": 0.1, "1.weight": 0.1, "1.bias": 0.1}


def test_schedule_is_mmcvs_cosine_with_linear_warmup():
    schedule = CosineSchedule(total_steps=1000, warmup_steps=100, warmup_start=0.1, final_share=0.0)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(1001)]
    assert schedule.share(0) == pytest.approx(0.1)
    assert schedule.share(50) == pytest.approx(0.55 * cosine[50])
    assert schedule.share(100) == pytest.approx(cosine[100])
    assert schedule.share(500) == pytest.approx(0.5)
    assert schedule.share(1000) == pytest.approx(0.0)
    assert CosineSchedule(10, 0, 0.1, 0.2).share(10) == pytest.approx(0.2)


def planned(name, **num_samples):
    """The plan of a recipe for datasets with these numbers of samples, in parts of 200."""
    recipe = load_recipe(name, RECIPES)
    assert isinstance(recipe, PretrainRecipe)
    orders = {
        stream: StreamOrder(
            np.full(num_samples[stream] // 200, 200), config.global_batch, config.window_parts, (0, stream)
        )
        for stream, config in recipe.streams.items()
    }
    return recipe, make_plan(pretrain_workload(recipe, orders, {}), processes=32)


def test_joint_recipe_has_the_papers_steps_and_rates():
    recipe, plan = planned("joint_swin_base_k400_in1k", video=240_000, image=1_281_000)
    assert plan.steps == 140_550  # 150 epochs of 937 steps
    assert plan.orders["image"].steps_per_epoch == 625
    rates = [recipe.optim.lr * plan.schedule.share(step) for step in (0, 9370, 70_275)]
    assert rates == pytest.approx([5e-5, 5e-4 * 0.98907, 2.5e-4], rel=1e-4)


def test_image_recipe_has_the_papers_epochs():
    recipe, plan = planned("image_swin_base_in1k", image=1_281_000)
    assert plan.steps == 800 * 625 and recipe.streams["image"].global_batch == 2048


@pytest.mark.parametrize(
    "name, streams", [("nano_image", "image"), ("nano_video", "video"), ("nano_joint", "video image")]
)
def test_nano_recipes_build(name, streams):
    recipe = load_recipe(name, RECIPES)
    assert isinstance(recipe, PretrainRecipe)
    assert set(build_model(recipe.model, tuple(recipe.streams)).route) == set(streams.split())


def test_video_recipe_is_the_joint_one_without_images():
    video, joint = (load_recipe(name, RECIPES) for name in ("video_swin_base_k400", "joint_swin_base_k400_in1k"))
    assert isinstance(video, PretrainRecipe) and isinstance(joint, PretrainRecipe)
    assert (video.model, video.optim, video.loop) == (joint.model, joint.optim, joint.loop)
    assert video.streams == {"video": joint.streams["video"]}
