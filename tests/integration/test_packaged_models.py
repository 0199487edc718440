"""Every command that takes weights takes the name of a packaged model; a stand-in takes the place of the real ones."""

import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import cli
from bevt_core.storage.files import sha256_of
from bevt_core.weights import packaged
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.errors import UserError
from schemas.runs import RunRecord
from tests.golden.surfaces import commands
from tests.support.json_keys import CheckKeys
from tests.support.media import moving_frames, write_video
from tests.support.packaged_models import NAME, packaged_model
from trainer import features, file_features, load_finetune_recipe, load_pretrain_recipe, load_run
from trainer.pretrain import stage
from trainer.runs.directory import existing_weights, read_run, weights_of
from trainer.show.run_facts import stages_of, tokenizer_before

JOINT = "--video-tokens {videos}/tokens/test-v2 --image-tokens {images}/tokens/test-v2 "
JOINT += " ".join(f"--set streams.{name}.global_batch=4" for name in ("video", "image"))
SMALL = "--set global_batch=4 --set sampling.interval=2"
NO_CLASSES = (
    f"{NAME}: a pretrained model, which has no classes; expected a fine-tuning run, which `bevt finetune folder"
)
NO_RUN = f"{NAME}: a pretrained model; expected the directory of a run"
REFUSALS = (NO_CLASSES, NO_RUN)
# command -> its arguments with {model}, and what it prints for a packaged model
TAKE_WEIGHTS = {
    "train": (
        f"train joint --recipe nano_joint {JOINT} --init {{model}} --dry-run",
        "steps",
    ),
    "finetune": (
        f"finetune folder --frames {{store}} {SMALL} --init {{model}} --dry-run",
        "clips_seen",
    ),
    "extract": ("extract {model} --frames {store} --out features.parquet --num-workers 0", "num_videos"),
    "probe": ("probe {model} --frames {store} --out probed --kind knn --num-workers 0", "knn"),
    "export": ("export {model} --out hub", "hub"),
    "viz attention": ("viz attention {model} --sample {clip} --out picture", "picture"),
    "viz predict": ("viz predict {model}", NO_RUN),
    "evaluate": ("evaluate {model} --frames {store}", NO_CLASSES),
    "predict": ("predict {model} {clip}", NO_CLASSES),
    "analyse temporal": ("analyse temporal {model} --frames {store} --out temporal", NO_CLASSES),
}
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(home|root|work|tmp|data|mnt)/")
OTHER_READERS = {"viz predict"}  # of a run that must have its data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`packaged/bevt-test`, its run, the token sets of both, and `clip.mp4`."""
    place = tmp_path_factory.mktemp("place")
    packaged_model(place)
    write_video(place / "clip.mp4", moving_frames(24))
    return place


@pytest.fixture(autouse=True)
def in_the_package(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PRETRAINED", place / "packaged")
    monkeypatch.chdir(tmp_path)


def printed(arguments: str, place: Path, model: str = NAME) -> str:
    """What a command prints, or its error."""
    places = {"videos": place / "videos", "images": place / "images", "store": place / "videos" / "frames"}
    given = arguments.format(model=model, clip=place / "clip.mp4", **places).split()
    result = CliRunner().invoke(cli.app, [*given, "--json"])
    return result.output if result.exception is None else str(result.exception)


def test_every_command_that_takes_weights_is_below() -> None:
    """By the help of its arguments, so that a new command is not forgotten."""
    taking = {
        name
        for name, command in commands().items()
        if any("weights" in (getattr(each, "help", None) or "") for each in command.params)
    }
    assert taking - {"tokenizer fetch", "tokenizer convert"} == TAKE_WEIGHTS.keys() - OTHER_READERS


@pytest.mark.parametrize("command", TAKE_WEIGHTS)
def test_a_command_takes_a_name(command: str, place: Path) -> None:
    arguments, expected = TAKE_WEIGHTS[command]
    assert expected in printed(arguments, place)


def test_results_do_not_name_the_folder_of_the_package(place: Path, tmp_path: Path) -> None:
    assert f'"unlisted": ["{NAME}"]' in printed(TAKE_WEIGHTS["probe"][0], place)
    assert str(place / "packaged") not in (tmp_path / "probed" / "probe.json").read_text()


@pytest.mark.parametrize("command", [name for name in TAKE_WEIGHTS if TAKE_WEIGHTS[name][1] not in REFUSALS])
def test_an_unknown_name_lists_the_known_ones(command: str, place: Path) -> None:
    found = printed(TAKE_WEIGHTS[command][0], place, model="bevt-tset")
    assert "bevt-tset: no such file or folder; did you mean 'bevt-test'? expected a finished run" in found
    assert "or a model of the package: bevt-test" in found


def test_without_packaged_models_no_error_names_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PRETRAINED", tmp_path / "none")
    with pytest.raises(UserError, match=r"expected a finished run, or its weights$"):
        existing_weights(Path("bevt-nano"))


def test_an_existing_path_wins_over_a_name(place: Path, tmp_path: Path) -> None:
    shipped = place / "packaged" / NAME / "model.safetensors"
    assert weights_of(Path(NAME)) == shipped
    assert weights_of(Path("runs") / NAME) == Path("runs") / NAME
    (tmp_path / NAME).write_bytes(shipped.read_bytes())
    assert weights_of(Path(NAME)) == Path(NAME)


@pytest.mark.parametrize("command", ["finetune", "probe"])
def test_a_folder_without_weights_that_hides_a_model_is_named(command: str, place: Path, tmp_path: Path) -> None:
    """Also the output of the command itself, which exists when the weights are read."""
    arguments = TAKE_WEIGHTS[command][0].replace(" --dry-run", "").replace(" --out probed", "")
    found = printed(f"{arguments} --out {NAME}", place)
    assert "an empty folder; expected a finished run" in found and "it hides the model of the package" in found
    assert "--out" in found or "`out`" in found
    assert not (tmp_path / NAME).exists()


def test_features_of_a_file_in_python_without_a_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *given: pytest.fail("a connection"))
    run = load_run(NAME)
    found = file_features(run, [place / "clip.mp4"])
    assert found.shape == (1, 128) and run.recipe is None
    same = load_run(place / "run")
    torch.testing.assert_close(found, file_features(same, [place / "clip.mp4"]))
    clips_BTHWC = torch.randint(0, 256, (1, 8, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(features(run, clips_BTHWC), features(same, clips_BTHWC))


def test_clips_of_pretraining_are_known_without_its_data(place: Path, tmp_path: Path) -> None:
    """An exported folder has them; weights alone need a recipe."""
    shipped = place / "packaged" / NAME / "model.safetensors"
    (tmp_path / "alone").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "alone" / name).write_bytes(shipped.with_name(name).read_bytes())
    with pytest.raises(UserError, match="not from a pretraining run with a video stream; give a fine-tuning `recipe`"):
        file_features(load_run(tmp_path / "alone"), [place / "clip.mp4"])
    recipe = load_finetune_recipe("nano_finetune")
    assert file_features(load_run(tmp_path / "alone"), [place / "clip.mp4"], recipe=recipe).shape == (1, 128)


def test_an_export_of_an_export_keeps_the_description(place: Path, tmp_path: Path) -> None:
    printed(TAKE_WEIGHTS["export"][0], place)
    found, original = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path / "hub", place / "packaged" / NAME)
    )
    assert found == original


def test_the_card_shows_how_to_get_features(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (place / "packaged" / NAME / "README.md").read_text()
    assert (
        "| trained on | 8 videos (folder), 6 images (folder) |" in card
        and "| input | 8 frames (every 2), 64 px" in card
    )
    monkeypatch.chdir(place / "packaged" / NAME)
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(code.replace("clip.mp4", str(place / "clip.mp4")), {})
    assert capsys.readouterr().out.startswith("tensor([[")


def test_listing_and_facts(place: Path, json_keys: CheckKeys) -> None:
    (row,) = CliRunner().invoke(cli.app, ["model", "list"]).output.splitlines()
    model = load_weights(place / "packaged" / NAME / "model.safetensors")
    parameters = sum(tensor.numel() for tensor in model.parameters())
    megabytes = (place / "packaged" / NAME / "model.safetensors").stat().st_size / 1e6
    assert row == (
        f"{NAME}  {parameters / 1e6:.1f} M parameters, {megabytes:.1f} MB, 8 frames of 64 px, "
        "trained on 8 videos (folder), 6 images (folder)"
    )
    listed = json.loads(printed("model list", place))
    json_keys("model list", listed)
    found = json.loads(printed(f"model info {NAME}", place))
    json_keys("model info -- MODEL", found)
    assert listed["models"] == [found] and found["parameters"] == parameters
    assert found["origin"]["command"] == "bevt train joint" and found["card"].endswith(f"{NAME}/README.md")
    assert found["origin"]["sha256 of the tokenizer"] == "0" * 64  # the stand-in's, in both token sets
    assert str(place) not in json.dumps(found["origin"])
    assert "did you mean 'bevt-test'? expected one of nano, " in printed("model info bevt-tset", place)


def joint_run(place: Path, out: Path, *overrides: str, resume: bool = False, **more: Any) -> RunRecord:
    """The record of a run of the joint stage that starts from the packaged model, of two steps unless overridden."""
    sets = {"video": place / "videos" / "tokens" / "test-v2", "image": place / "images" / "tokens" / "test-v2"}
    given = [f"streams.{name}.tokens={tokens}" for name, tokens in sets.items()]
    given += [f"streams.{name}.global_batch=4" for name in sets]
    given += ["loop.num_workers=0", "loop.epochs=1", "loop.max_steps=1", f"init={NAME}"]
    stage.pretrain(load_pretrain_recipe("nano_joint", [*given, *overrides]), out, resume=resume, **more)
    return read_run(out)[1]


def test_a_run_pins_what_a_name_was_resolved_to(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe has the name and the record the digest, so that the run does not depend on the package's folder."""
    plan = stage.workload_of
    monkeypatch.setattr(stage, "workload_of", lambda *given: replace(plan(*given), cost=None))  # counting takes seconds
    shipped = place / "packaged" / NAME / "model.safetensors"
    record = joint_run(place, tmp_path / "run")
    assert record.init_sha256 == sha256_of(shipped)
    recipe, _ = read_run(tmp_path / "run")
    assert recipe.init == NAME and str(place / "packaged") not in (tmp_path / "run" / "recipe.yaml").read_text()

    shutil.copytree(place / "packaged", tmp_path / "reinstalled")
    monkeypatch.setattr(packaged, "PRETRAINED", tmp_path / "reinstalled")
    assert joint_run(place, tmp_path / "run", "loop.max_steps=2", resume=True) == record
    assert joint_run(place, tmp_path / "again", repeat_of=record).init_sha256 == record.init_sha256

    other = load_weights(shipped)
    torch.nn.init.zeros_(next(other.parameters()))
    save_weights(tmp_path / "reinstalled" / NAME / "weights.safetensors", other)  # another version of the package
    wrong = rf"started from weights with sha256 {record.init_sha256[:12]}, but init {NAME} now has [0-9a-f]{{12}}; give"
    with pytest.raises(UserError, match=f"the repeated run {wrong}"):
        joint_run(place, tmp_path / "third", repeat_of=record)
    shutil.rmtree(tmp_path / "again" / "checkpoints")  # as if killed before the first checkpoint
    with pytest.raises(UserError, match=f"again {wrong}"):
        joint_run(place, tmp_path / "again", resume=True)
    shutil.rmtree(tmp_path / "reinstalled")
    assert joint_run(place, tmp_path / "run", "loop.max_steps=2", resume=True) == record  # the weights are not needed


def test_the_models_of_the_package(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Each loads, is small, has the card of its run, and is fine-tuned with the default recipe."""
    monkeypatch.setattr(packaged, "PRETRAINED", Path(packaged.__file__).parent / "pretrained")
    for name in packaged.packaged_names():
        facts = packaged.describe_packaged(name)
        folder = Path(facts["weights"]).parent
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 6e6
        assert facts["origin"]["recipe's digest"] in (folder / "README.md").read_text()  # of the same run
        assert not ABSOLUTE.search((folder / "README.md").read_text() + (folder / "pretrained.json").read_text())
        assert torch.isfinite(file_features(load_run(name), [place / "clip.mp4"])).all()
        assert "clips_seen" in printed(TAKE_WEIGHTS["finetune"][0], place, name)


def test_a_report_names_the_model_that_a_run_started_from() -> None:
    assert stages_of(NAME) == [] and tokenizer_before(NAME) == "test"
