"""Pretraining on several targets, from two tokenizers' token sets of the same videos to pictures of either."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cli
from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers.peco.family import PecoSizes
from bevt_core.tokenizers.peco.tokenizer import PecoTrainingModule
from bevt_core.weights.export import HubModel, save_hub_folder
from bevt_core.weights.model_files import load_weights
from pipeline.job.run import tokenize
from schemas.errors import UserError
from tests.support.builders import add_token_set, make_token_set
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from tests.support.pretraining import for_4x4_tokens, recipe_of
from tests.support.tiny_jobs import save_tiny_tokenizer, tiny_recipe
from trainer.distributed.launch import launch
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain
from trainer.runs.directory import read_run
from trainer.show.run_facts import tokenizer_of_stages
from trainer.show.viz import viz_predict

Data = dict[str, TokenSet]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("data")
    return {
        "video": make_token_set(root / "videos", num_samples=8, sources_per_part=4),
        "image": make_token_set(root / "images", kind="image", num_samples=12, num_views=3),
    }


@pytest.fixture(scope="module")
def more(data: Data) -> list[str]:
    """The settings that add a target to both streams."""
    others = {stream: add_token_set(tokens, "other") for stream, tokens in data.items()}
    return [
        "model.more_heads.other=48",
        *(f"streams.{stream}.more_targets.other.tokens={tokens.path}" for stream, tokens in others.items()),
    ]


def columns(run: Path, *names: str) -> torch.Tensor:
    return torch.tensor([[line[name] for name in names] for line in read_metrics(run)], dtype=torch.float64)


def test_two_tokenizers_tokens_are_predicted_and_drawn(tmp_path: Path) -> None:
    """From videos: the views of both token sets are equal, though one tokenizer reads 32 px and the other 64."""
    for number in range(6):
        write_video(tmp_path / "raw" / f"{number}.mp4", moving_frames(8, 64, 80, seed=number))
    save_tiny_tokenizer(tmp_path / "dvae")
    sizes = PecoSizes(width=8, multipliers=(1, 1, 1, 1, 2), blocks=1, code_dim=8, vocab_size=48)
    PecoTrainingModule(sizes).save(tmp_path / "peco", input_px=64, origin={"made_by": "a test"})
    for kind in ("dvae", "peco"):
        with without_ray():
            tokenize(tiny_recipe(tmp_path / "raw", tmp_path / "set", tmp_path / kind))
    sets = {kind: tmp_path / "set" / "tokens" / f"{kind}-v2" for kind in ("dvae", "peco")}
    assert [TokenSet(path).manifest.tokenizer.input_px for path in sets.values()] == [32, 64]
    common = ["train", "video", "--recipe", "nano_video", "--video-tokens", str(sets["dvae"])]
    for setting in (*for_4x4_tokens("video"), "streams.video.global_batch=2", "loop.num_workers=0"):
        common += ["--set", setting]
    common += ["--set", "loop.max_steps=2", "--set", "loop.epochs=5", "--targets", "dvae,peco:0.5"]
    planned = CliRunner().invoke(cli.app, [*common, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "video: further targets: peco (48 tokens, weight 0.5)" in planned.stdout
    ran = CliRunner().invoke(cli.app, [*common, "--out", str(tmp_path / "run"), "--json"])
    assert ran.exit_code == 0, ran.output
    last = json.loads(ran.stdout.splitlines()[-1])["metrics"]
    assert last["loss"] == pytest.approx(last["mvm_loss"] + 0.5 * last["mvm_peco_loss"])
    assert {"mvm_acc", "mvm_peco_acc", "mvm_peco_target_perplexity"} <= last.keys()
    recipe, record = read_run(tmp_path / "run")
    assert {name: Path(ref.path) for name, ref in record.datasets.items()} == {
        "video": sets["dvae"],
        "video.peco": sets["peco"],
    }
    assert tokenizer_of_stages([recipe]) == "dvae, peco"  # type: ignore[list-item]
    for target in ([], ["--target", "peco"]):
        drawing = ["viz", "predict", str(tmp_path / "run"), "--out", str(tmp_path / "picture"), *target]
        drawn = CliRunner().invoke(cli.app, drawing)
        assert drawn.exit_code == 0 and (tmp_path / "picture.png").is_file(), drawn.output
    with pytest.raises(UserError, match=r"no target 'pco' besides the first in its video stream; did you mean 'peco'"):
        viz_predict(tmp_path / "run", tmp_path / "picture", target="pco")
    again = CliRunner().invoke(cli.app, ["train", "--from", str(tmp_path / "run"), "--targets", "dvae"])
    assert "already has that run's targets" in str(again.exception)


def test_a_stopped_run_goes_on_bit_for_bit(data: Data, more: list[str], tmp_path: Path) -> None:
    pretrain(recipe_of(data, *more, "loop.max_steps=4", "loop.epochs=5"), tmp_path / "straight")
    pretrain(recipe_of(data, *more, "loop.max_steps=2", "loop.epochs=5"), tmp_path / "stopped")
    pretrain(recipe_of(data, *more, "loop.max_steps=4", "loop.epochs=5"), tmp_path / "stopped", resume=True)
    names = ("loss", "mvm_loss", "mim_loss", "mvm_other_loss", "mim_other_loss", "mim_other_acc", "grad_norm")
    assert torch.equal(columns(tmp_path / "stopped", *names), columns(tmp_path / "straight", *names))
    ends = [load_weights(tmp_path / name / "weights.safetensors") for name in ("stopped", "straight")]
    assert all(torch.equal(tensor, ends[1].state_dict()[key]) for key, tensor in ends[0].state_dict().items())
    for changed, key in (
        ("streams.video.more_targets.other.loss_weight=0.5", r"streams\.video\.more_targets\.other\.loss_weight"),
        ("streams.image.more_targets={}", r"data\.image\.other"),
    ):
        with pytest.raises(UserError, match=rf"{key}: .* in the checkpoint, .* now"):
            pretrain(recipe_of(data, *more, changed, "loop.max_steps=5"), tmp_path / "stopped", resume=True)
    save_hub_folder(tmp_path / "hub", ends[0], {})
    hub = HubModel.from_pretrained(tmp_path / "hub").model
    assert hub.config["more_heads"] == {"other": 48}
    assert torch.equal(hub.get_parameter("lm_head_other.weight"), ends[0].get_parameter("lm_head_other.weight"))


@pytest.mark.slow
def test_a_target_without_weight_does_not_change_the_run(data: Data, more: list[str], tmp_path: Path) -> None:
    """Without clipping, whose norm sums over more parameters."""
    settings = ("loop.max_steps=3", "optim.clip_grad_norm=null")
    weightless = [f"streams.{stream}.more_targets.other.loss_weight=0" for stream in data]
    pretrain(recipe_of(data, *settings), tmp_path / "one")
    pretrain(recipe_of(data, *settings, *more, *weightless), tmp_path / "two")
    names = ("loss", "mvm_loss", "mim_loss", "mvm_acc", "mim_target_perplexity")
    assert torch.equal(columns(tmp_path / "one", *names), columns(tmp_path / "two", *names))
    one, two = (load_weights(tmp_path / name / "weights.safetensors").state_dict() for name in ("one", "two"))
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_same_steps(data: Data, more: list[str], tmp_path: Path, parallel: str) -> None:
    steps = (*more, "loop.max_steps=3", "loop.epochs=5", "model.encoder.drop_path=0")
    pretrain(recipe_of(data, *steps), tmp_path / "one")
    launch(pretrain, 2, recipe_of(data, *steps, "loop.micro_batches=2", f"loop.parallel={parallel}"), tmp_path / "two")
    names = ("loss", "mvm_other_loss", "mim_other_loss")
    assert columns(tmp_path / "two", *names).numpy() == pytest.approx(
        columns(tmp_path / "one", *names).numpy(), abs=1e-4
    )
