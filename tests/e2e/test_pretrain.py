"""Pretraining from shards, as a user runs it: processes, kills, resumes, and data that does not fit."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch._dynamo

from bevt_core.rng import rng_for
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.text.plain import short
from tests.support.builders import make_token_set
from tests.support.children import descendants, is_running, wait_until
from tests.support.pretraining import recipe_of, settings
from trainer.clips.lists import read_lists
from trainer.data.batches import make_batch
from trainer.distributed.launch import launch
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import dry_run, pretrain
from trainer.pretrain.streams import open_sources, open_streams
from trainer.pretrain.task import PretrainTask
from trainer.runs.browse import summary_of
from trainer.runs.directory import read_run
from trainer.setup.memory import OUTSIDE_GB, USABLE_SHARE
from trainer.setup.models import build_model

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "video": make_token_set(root / "videos"),
        "image": make_token_set(root / "images", kind="image", num_samples=40, num_views=3),
    }


def losses(run):
    return [(line["step"], line["loss"], line["mim_loss"], line["mvm_loss"]) for line in read_metrics(run)]


def test_a_run_leaves_everything_needed_to_repeat_it(data, tmp_path, json_keys, capsys):
    recipe = recipe_of(data, "loop.max_steps=3", "loop.epochs=2")
    summary = pretrain(recipe, tmp_path / "run", command="bevt train joint")
    assert summary["step"] == 3 and Path(summary["weights"]).is_file()
    json_keys("train", summary)
    again, record = read_run(tmp_path / "run")
    cut = f"stopped by loop.max_steps at 3 of {record.total_steps} steps"
    assert summary["state"] == summary_of(tmp_path / "run")["state"] == cut and not summary["finished"]
    lists = read_lists(tmp_path / "run")
    assert lists is not None and lists.table["use"].unique().to_pylist() == ["pretrain"]
    read = {str(data[name].frames.path): count for name, count in (("video", 24), ("image", 40))}
    assert Counter(lists.table["path"].to_pylist()) == read
    assert again == recipe
    assert record.datasets["video"].digest == data["video"].digest and record.command == "bevt train joint"
    pretrain(again, tmp_path / "again", repeat_of=record)
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    one, other = (load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("run", "again"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    capsys.readouterr()
    with pytest.raises(UserError, match="already contains a run; give `resume`"):
        pretrain(recipe, tmp_path / "run")
    assert capsys.readouterr().out == ""  # no plan of a run that does not start


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_blocks_train_on_two_processes_and_resume(data, tmp_path, parallel):
    common = ("loop.epochs=5", "loop.micro_batches=2", "loop.activation_checkpointing=true", "ema_decay=0.5")
    pretrain(recipe_of(data, *common, "loop.max_steps=4"), tmp_path / "plain")
    compiled = (*common, "loop.compile=blocks", f"loop.parallel={parallel}")
    launch(pretrain, 2, recipe_of(data, *compiled, "loop.max_steps=2"), tmp_path / "compiled")
    launch(pretrain, 2, recipe_of(data, *compiled, "loop.max_steps=4"), tmp_path / "compiled", resume=True)
    one, other = (torch.tensor(losses(tmp_path / name)) for name in ("plain", "compiled"))
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_trains_with_one_graph(data, tmp_path, monkeypatch):
    """Masks hide another number of positions in each step. The backend is the compiler's front end alone."""
    plain, counted = torch.nn.Module.compile, torch._dynamo.utils.counters
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: plain(model, backend="aot_eager"))
    torch._dynamo.reset()
    counted.clear()
    common = ("loop.epochs=5", "loop.max_steps=3")
    pretrain(recipe_of(data, *common), tmp_path / "plain")
    pretrain(recipe_of(data, *common, "loop.compile=true"), tmp_path / "compiled")
    one, other = (torch.tensor(losses(tmp_path / name)) for name in ("plain", "compiled"))
    assert torch.allclose(one, other, atol=1e-4)
    assert counted["stats"]["unique_graphs"] == 1 and not counted["graph_break"]


def test_two_processes_compute_what_one_does(data, tmp_path):
    """Over 8 steps, the last 3 of them resumed by one process: the number of processes may change."""
    recipe = recipe_of(data, "loop.max_steps=8", "loop.epochs=5", "loop.micro_batches=2")
    pretrain(recipe, tmp_path / "one")
    first_part = recipe_of(data, "loop.max_steps=5", "loop.epochs=5", "loop.micro_batches=2")
    assert launch(pretrain, 2, first_part, tmp_path / "two")["step"] == 5
    pretrain(recipe, tmp_path / "two", resume=True)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 8
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, abs=1e-4)  # worst seen 2e-6: the order of float additions


def test_kill_9_and_resume_give_the_uninterrupted_run_to_the_bit(data, tmp_path):
    steps = "loop.max_steps=30"
    pretrain(recipe_of(data, steps, "loop.epochs=20"), tmp_path / "straight")
    command = [sys.executable, "-m", "cli", "train", "joint", "--recipe", "nano_joint"]
    command += ["--out", str(tmp_path / "killed")]
    for setting in settings(data, steps, "loop.epochs=20", "loop.num_workers=1"):
        command += ["--set", setting]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 120
        while len(read_metrics(tmp_path / "killed")) < 11:
            assert killed.poll() is None and time.monotonic() < give_up, "ended before it could be killed"
            time.sleep(0.005)
        helpers = descendants(killed.pid)
    finally:
        killed.kill()
        killed.wait()
    wait_until(lambda: not any(is_running(pid) for pid in helpers))
    assert len(helpers) >= 2  # the loader's server and its worker
    assert len(read_metrics(tmp_path / "killed")) < 30
    pretrain(recipe_of(data, steps, "loop.epochs=20"), tmp_path / "killed", resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    ends = [load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("killed", "straight")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(data, tmp_path):
    """While it starts, in a step, while a thread writes a checkpoint: whenever the signal comes."""
    options = ("loop.max_steps=60", "loop.epochs=20", "loop.checkpoint_every=1", "loop.keep_checkpoints=3")
    pretrain(recipe_of(data, *options), tmp_path / "straight")
    command = [sys.executable, "-m", "cli", "train", "joint", "--recipe", "nano_joint", "--resume"]
    command += ["--out", str(tmp_path / "killed")]
    for setting in settings(data, *options, "loop.num_workers=1"):
        command += ["--set", setting]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    moments = rng_for("kill moments")
    for _ in range(20):
        running = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL)
        steps = len(read_metrics(tmp_path / "killed")) if (tmp_path / "killed").exists() else 0
        wanted, give_up = steps + int(moments.integers(0, 3)), time.monotonic() + 60
        while running.poll() is None and time.monotonic() < give_up:
            if (tmp_path / "killed" / "metrics.jsonl").exists() and len(read_metrics(tmp_path / "killed")) > wanted:
                break
            time.sleep(0.005)
        time.sleep(float(moments.uniform(0, 0.3)))
        helpers = descendants(running.pid) if running.poll() is None else []
        running.kill()
        running.wait()
        wait_until(lambda helpers=helpers: not any(is_running(pid) for pid in helpers))
    pretrain(recipe_of(data, *options), tmp_path / "killed", resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    ends = [load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("killed", "straight")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


@pytest.mark.slow
def test_four_processes_then_two_then_three_take_the_same_steps(data, tmp_path):
    pretrain(recipe_of(data, "loop.max_steps=9", "loop.epochs=5"), tmp_path / "one")
    for processes, stop in ((4, 3), (2, 6), (3, 9)):
        recipe = recipe_of(data, f"loop.max_steps={stop}", "loop.epochs=5", "loop.checkpoint_every=3")
        launch(pretrain, processes, recipe, tmp_path / "elastic", resume=processes != 4)
    one, elastic = losses(tmp_path / "one"), losses(tmp_path / "elastic")
    assert len(elastic) == 9
    for alone, shared in zip(one, elastic, strict=True):
        assert shared == pytest.approx(alone, abs=1e-4)


def test_changed_data_or_another_batch_cannot_resume(data, tmp_path):
    pretrain(recipe_of(data, "loop.max_steps=2"), tmp_path / "run")
    grown = data | {"video": make_token_set(tmp_path / "grown", num_samples=25)}
    with pytest.raises(
        UserError,
        match=rf"data\.video: '{short(data['video'].digest)}' in the checkpoint, '{short(grown['video'].digest)}' now",
    ):
        pretrain(recipe_of(grown, "loop.max_steps=4"), tmp_path / "run", resume=True)
    for setting in ("streams.video.global_batch=8", "loop.seed=1", "optim.lr=0.5"):
        key = setting.split("=")[0].replace(".", r"\.")
        with pytest.raises(UserError, match=f"{key}: .* in the checkpoint, .* now"):
            pretrain(recipe_of(data, "loop.max_steps=4", setting), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("model.vocab_size=128", "vocabulary has 64 tokens, but the recipe's model.vocab_size is 128"),
        ("model.encoder.patch=[2,4,4]", "have 4 x 4 tokens, but the recipe's encoder predicts 8 x 8"),
        ("streams.video.clip_frames=7", "clip_frames is 7, not a multiple of the encoder's 2 frames"),
        ("streams.video.global_batch=32", "24 samples, fewer than one global batch of 32"),
        ("loop.micro_batches=5", "leaves some of them empty"),
        ("streams.video.tokens=nowhere/tokens/x", "nowhere/tokens/x: no such token set"),
        ("streams.video.mask={kind: block, ratio: 0.5}", "mask.kind is 'block'; expected tube or random_3d"),
        ("init=nowhere", "nowhere: no such file"),
        ("loop.picture_every=2", "no tokenizer is named to decode tokens"),
        (
            "loop={parallel: fsdp, precision: fp16, epochs: 1, seed: 0, num_workers: 0, checkpoint_every: 1}",
            "no loss scale",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error_and_leaves_no_run(data, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        pretrain(recipe_of(data, setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_plan_for_processes_that_are_not_there(data, capsys):
    plan = dry_run(recipe_of(data, "loop.epochs=3"), processes=1)
    shown = capsys.readouterr().out
    assert "18 steps of 18 (3 epochs)" in shown and "batch 6 = 1 x 6" in shown and "108 images in 3 epochs" in shown
    assert plan["steps"] == 18 and plan["samples_seen"] == {"video": 72, "image": 108}
    assert plan["flops_total"] == 18 * plan["flops"] > 0 and plan["activation_bytes"] > 0
    assert plan["hours"] == pytest.approx(plan["flops_total"] / 100e12 / 3600)
    assert "video: 24 samples, 0 left out per epoch; batch 4 = 3 x 1 or 2" in printed_plan(data, 3, capsys)


def printed_plan(data, processes, capsys):
    dry_run(recipe_of(data), processes=processes)
    return capsys.readouterr().out


def test_fewer_processes_than_the_recipe_is_for_accumulate_more(data, capsys):
    settings = ("loop.processes=4", "loop.micro_batches=1")
    assert dry_run(recipe_of(data, *settings), processes=1)["micro_batches"] == 4
    assert "accumulation: 4 micro-batches, since the recipe's 1 are for 4 processes" in capsys.readouterr().out
    assert [dry_run(recipe_of(data, *settings), processes=n)["micro_batches"] for n in (2, 4)] == [2, 1]
    with pytest.raises(UserError, match=r"a global batch of 4 on 3 processes in 2 micro-batches"):
        dry_run(recipe_of(data, *settings), processes=3)
    with pytest.raises(UserError, match=r"a global batch of 4 on 8 processes in 1 micro-batch "):
        dry_run(recipe_of(data, *settings), processes=8)


def test_micro_batches_are_chosen_to_fit_the_gpu(data, tmp_path, capsys):
    """For any GPU, losses equal those with the recipe's micro-batches, up to rounding."""
    recipe = recipe_of(data, "loop.max_steps=3")
    cost = dry_run(recipe, processes=1)
    small_gb = OUTSIDE_GB + 0.7 * (cost["state_bytes"] + cost["activation_bytes"]) / 1e9 / USABLE_SHARE
    plan = dry_run(recipe, processes=1, memory=small_gb)
    assert plan["micro_batches"] > 1 and plan["global_batch"] == {"video": 4, "image": 6}
    assert f"on a GPU of {small_gb:.4g} GB; 1 without activation checkpointing would" in capsys.readouterr().out
    pretrain(recipe, tmp_path / "recipe")
    pretrain(recipe, tmp_path / "fitted", memory=small_gb)
    assert read_run(tmp_path / "fitted")[0].loop.micro_batches == plan["micro_batches"]
    for one, other in zip(losses(tmp_path / "recipe"), losses(tmp_path / "fitted"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    with pytest.raises(UserError, match=r"takes about .* even in .* with activation checkpointing"):
        dry_run(recipe, processes=1, memory=OUTSIDE_GB)


def test_images_come_from_the_frames_of_the_videos(data):
    """Table 7: the same token set in both streams, one random frame of a pool with that frame's stored tokens."""
    videos = data["video"]
    recipe = recipe_of({"video": videos, "image": videos}, "streams.image.global_batch=6")
    images, order = open_streams(recipe, open_sources(recipe, torch.device("cpu")))["image"]
    assert order.steps_per_epoch == 4
    sample = images[0, 3]
    assert sample["clip"].shape == (1, 64, 64, 3) and sample["tokens"].shape == sample["mask"].shape == (1, 4, 4)
    chosen = set()
    for epoch in range(8):
        pool_THW = images._part_view(0, epoch)[0].tokens[3].astype("int64")
        frame_HW = images[epoch, 3]["tokens"][0].numpy()
        chosen.add(next(t for t in range(10) if (pool_THW[t] == frame_HW).all()))
    assert len(chosen) > 2


def test_images_in_place_of_videos_are_refused_and_videos_for_images_named(data, capsys):
    swapped = recipe_of({"video": data["image"], "image": data["video"]})
    with pytest.raises(UserError, match=r"a set of images, with one frame in each of 40 samples.*swap it with `image"):
        open_sources(swapped, torch.device("cpu"))
    dry_run(recipe_of(data), processes=1)
    assert "warning" not in capsys.readouterr().err
    dry_run(recipe_of({"image": data["video"]}, stage="image", streams=("image",)), processes=1)
    said = capsys.readouterr().err
    assert "warning: image stream" in said and "a set of videos, 240 frames of 24 samples" in said


def test_thinned_videos_are_named(tmp_path, capsys):
    videos = make_token_set(tmp_path, num_samples=8, frames=12, max_frames=6)
    dry_run(recipe_of({"video": videos}, stage="video", streams=("video",)), processes=1)
    said = capsys.readouterr().err
    assert "the frames of 8 of 8 samples, e.g. 0000.mp4, were thinned to pool.max_frames=6" in said


def test_averaged_weights_follow_the_trained_ones_and_survive_a_resume(data, tmp_path):
    decay = "ema_decay=0.5"
    pretrain(recipe_of(data, decay, "loop.max_steps=4"), tmp_path / "straight")
    pretrain(recipe_of(data, decay, "loop.max_steps=2", "loop.hang_timeout_s=600"), tmp_path / "resumed")
    pretrain(recipe_of(data, decay, "loop.max_steps=4"), tmp_path / "resumed", resume=True)
    pretrain(recipe_of(data, "loop.max_steps=4"), tmp_path / "plain")
    assert losses(tmp_path / "straight") == losses(tmp_path / "resumed") == losses(tmp_path / "plain")
    straight, resumed, plain = (
        load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("straight", "resumed", "plain")
    )
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert straight.keys() == plain.keys() and not torch.equal(straight["lm_head.weight"], plain["lm_head.weight"])


def test_the_joint_stage_starts_from_the_image_stream(data, tmp_path, capsys):
    pretrain(recipe_of(data, "loop.max_steps=3", stage="image", streams=("image",)), tmp_path / "image")
    recipe = recipe_of(data, f"init={tmp_path / 'image'}", "loop.max_steps=1", "optim.lr=1e-12")
    pretrain(recipe, tmp_path / "joint")
    image, joint = (load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("image", "joint"))
    stem = image["stems.image.proj.weight"] / 2
    assert torch.allclose(joint["stems.video.proj.weight"], torch.stack([stem, stem], dim=2), atol=1e-6)
    assert torch.allclose(joint["encoders.shared.stages.0.blocks.0.mlp.fc1.weight"],
                          image["encoders.shared.stages.0.blocks.0.mlp.fc1.weight"], atol=1e-6)  # fmt: skip
    assert "newly initialised: decoders.video." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"embed_dim is 16, but the recipe's model has 32"):
        pretrain(recipe_of(data, f"init={tmp_path / 'image'}", "model.encoder.embed_dim=32"), tmp_path / "wide")
    with pytest.raises(UserError, match=r"has 32; take the checkpoint's encoder with `model.encoder.embed_dim=16`"):
        dry_run(recipe_of(data, f"init={tmp_path / 'image'}", "model.encoder.embed_dim=32"), processes=1)


TIMESFORMER = "model.encoder={kind: timesformer, patch: [1,16,16], embed_dim: 16, depth: 2, num_heads: 2, "
TIMESFORMER += "grid: [8,4,4], drop_path: 0.0}"


@pytest.mark.parametrize("encoder", [(), (TIMESFORMER,)], ids=["swin", "timesformer"])
@pytest.mark.parametrize("stage, names", [("joint", "video image"), ("video", "video"), ("image", "image")])
def test_every_parameter_of_an_active_stream_gets_a_gradient(data, stage, names, encoder):
    """DDP runs without find_unused_parameters."""
    streams = tuple(names.split())
    recipe = recipe_of(data, *encoder, stage=stage, streams=streams)
    opened = open_streams(recipe, open_sources(recipe, torch.device("cpu")))
    task = PretrainTask(build_model(recipe.model, streams), dict.fromkeys(streams, 1.0), recipe.model.vocab_size, {})
    batch = {name: make_batch(data, [data[0, position] for position in range(4)]) for name, (data, _) in opened.items()}
    terms = task.losses(task.model, batch, 0)
    torch.stack([term.loss_sum for term in terms.values()]).sum().backward()
    assert [name for name, parameter in task.model.named_parameters() if parameter.grad is None] == []
    counts = task.counts(batch)
    assert {name: float(term.histograms["target"].sum()) for name, term in terms.items()} == counts
