"""Every command that takes weights takes hf://ORG/NAME: what is read, what is pinned, and what can go wrong."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

import cli
from bevt_core.hub.client import HubUnreachableError
from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.storage.files import sha256_of
from bevt_core.weights.hub_models import MAX_WEIGHTS_BYTES, pinned
from bevt_core.weights.model_files import save_weights
from bevt_core.weights.packaged import find_model, name_of
from schemas.errors import UserError
from schemas.runs import RunRecord
from tests.golden.surfaces import commands
from tests.support.hub_server import TOKEN, HubServer, forget, hub_server, nth
from tests.support.media import moving_frames, write_video
from tests.support.packaged_models import NAME, packaged_model
from trainer import load_finetune_recipe, load_pretrain_recipe, load_run, predict
from trainer.pretrain import stage
from trainer.runs.directory import read_run
from trainer.show.model_card import export_hub
from trainer.show.run_facts import stages_of, tokenizer_before
from trainer.testing.classifier_card import CARD, card_of

MODEL, CLASSIFIER = "hf://org/model", "hf://org/classifier"
JOINT = "--video-tokens {videos}/tokens/test-v2 --image-tokens {images}/tokens/test-v2 "
JOINT += " ".join(f"--set streams.{name}.global_batch=4" for name in ("video", "image"))
SMALL = "--set global_batch=4 --set sampling.interval=2"
TAKE_A_NAME = {
    "train": f"train joint --recipe nano_joint {JOINT} --init {MODEL} --dry-run",
    "finetune": f"finetune folder --frames {{store}} {SMALL} --init {MODEL} --dry-run",
    "extract": f"extract {MODEL} --frames {{store}} --out features.parquet --num-workers 0",
    "export": f"export {MODEL} --out copy",
    "viz attention": f"viz attention {MODEL} --sample {{clip}} --out picture",
    "predict": f"predict {CLASSIFIER} {{clip}}",
    "probe": f"probe {MODEL} --frames {{store}} --out probed --kind knn --num-workers 0",
    "evaluate": f"evaluate {CLASSIFIER} --frames {{store}} --num-workers 0 --clips 1 --crops 1",
    "analyse temporal": f"analyse temporal {CLASSIFIER} --frames {{store}} --out out --clips 1 --crops 1 --seeds 1",
    "model info": f"model info {MODEL}",
}
SLOW = {"evaluate", "analyse temporal", "probe", "viz attention", "train"}  # seconds each


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`packaged/bevt-test`, its run, the token sets of both, an exported classifier, and `clip.mp4`."""
    place = tmp_path_factory.mktemp("place")
    packaged_model(place)
    write_video(place / "clip.mp4", moving_frames(24))
    run = place / "tuned"
    run.mkdir()
    save_weights(run / "weights.safetensors", build_classifier(**SWIN_SIZES["nano"], num_classes=2))
    card = card_of(load_finetune_recipe("nano_finetune", ["sampling.interval=2"]), ("no", "yes"))
    (run / CARD).write_text(card.model_dump_json())
    export_hub(run, place / "classifier")
    return place


@pytest.fixture
def hub(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with hub_server(tmp_path / "cache") as server:
        server.add("org/model", place / "packaged" / NAME)
        server.add("org/classifier", place / "classifier")
        yield server


def printed(arguments: str, place: Path) -> str:
    """What a command prints, or its error."""
    places = {"videos": place / "videos", "images": place / "images", "store": place / "videos" / "frames"}
    result = CliRunner().invoke(cli.app, [*arguments.format(clip=place / "clip.mp4", **places).split(), "--json"])
    return result.output if result.exception is None else repr(result.exception)


def test_every_command_that_takes_a_name_is_above() -> None:
    """By the help of its arguments, so that a new command is not forgotten."""
    taking = {
        name
        for name, command in commands().items()
        if any("hf://" in (getattr(each, "help", None) or "") for each in command.params)
    }
    assert taking == TAKE_A_NAME.keys()


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TAKE_A_NAME]
)
def test_a_command_takes_a_name(command: str, place: Path, hub: HubServer) -> None:
    found = printed(TAKE_A_NAME[command], place)
    assert ("Error" not in found and found.startswith(("{", "["))) or '{"' in found
    assert command == "model info" or str(constants.HF_HUB_CACHE) not in found
    assert hub.count("GET /objects/") == 1  # the weights, once


def test_what_a_report_needs_is_read_without_a_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is gone from the cache is unknown, as a run whose folder was removed."""
    name = pinned(MODEL)
    assert tokenizer_before(name) == "unknown" and not hub.count("objects")
    load_run(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert tokenizer_before(name) == "test" and stages_of(name) == []


def test_a_name_is_that_of_one_commit(place: Path, hub: HubServer) -> None:
    """Only the files that `bevt export` writes are fetched, and nothing at all once the commit is in the cache."""
    first = hub.repositories["model", "org/model"].commits[-1][0]
    hub.add("org/model", place / "classifier")
    hub.repositories["model", "org/model"].files["pytorch_model.bin"] = b"\x80"
    hub.repositories["model", "org/model"].refs["v1"] = first
    latest = hub.repositories["model", "org/model"].commits[-1][0]
    assert pinned(MODEL) == f"{MODEL}@{latest}" and pinned(f"{MODEL}@v1") == f"{MODEL}@{first}"
    old, new = find_model(f"{MODEL}@{first}"), find_model(MODEL)
    assert name_of(old) == f"{MODEL}@{first}" and name_of(new / "model.safetensors") == f"{MODEL}@{latest}"
    assert (old / "model.safetensors").read_bytes() == (place / "packaged" / NAME / "model.safetensors").read_bytes()
    assert not hub.count("pytorch_model") and not (new / "pretrained.json").exists()
    hub.requests.clear()
    forget()
    assert find_model(f"{MODEL}@{latest}") == new and hub.requests == []


def test_python_takes_names_too(place: Path, hub: HubServer) -> None:
    (answer,) = predict(CLASSIFIER, [str(place / "clip.mp4")])
    assert {each["name"] for each in answer["classes"]} == {"no", "yes"}
    assert load_run(MODEL).model.config["kind"] == "bevt"
    with pytest.raises(UserError, match="a path drops a slash of hf://; give the name as a string"):
        load_run(Path(MODEL))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("hf://model", "'model' is no name of a repository; expected ORG/NAME, such as hf://ORG/NAME or hf://"),
        ("hf://org/../model", "is no name of a repository"),
        ("hf://org/model/config.json", "is no name of a repository"),
        ("hf://user:secret@host/x", "is no name of a repository"),
        ("hf://org/model@../../x", "is no branch, tag or commit"),
        ("hf://org/model@", "'' is no branch, tag or commit"),
        ("hf://org/none", "no such repository, or a private one; check the name, and log in with `hf auth login`"),
        ("hf://org/model@v9", "the repository has no such branch, tag or commit"),
        (f"hf://org/model@{'0' * 40}", "the repository has no such branch, tag or commit"),
        ("hf://org/other", r"no config.json and no model.safetensors \(found: pytorch_model.bin\); expected a model"),
        ("hf://org/foreign", "a model of another library, by its config.json; expected a model that `bevt export"),
        ("hf://org/private", "no such repository, or a private one"),
    ],
)
def test_a_name_that_is_no_model_is_one_line(
    name: str, error: str, place: Path, hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"\x80")
    hub.add("org/other", tmp_path / "other")
    hub.add("org/private", place / "classifier", private=True)
    shutil.copytree(place / "classifier", tmp_path / "foreign")
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "swin"}')
    hub.add("org/foreign", tmp_path / "foreign")
    with pytest.raises(UserError, match=error) as caught:
        load_run(name)
    assert "\n" not in str(caught.value) and "no such file or folder" not in str(caught.value)


def test_a_private_model_needs_the_token(place: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", place / "packaged" / NAME, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="the Hub does not accept the token"):
        load_run(MODEL)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_run(MODEL)  # the server checks that the other host, with the weights, does not get the token


def test_a_model_that_is_too_large_is_not_fetched(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bevt_core.weights.hub_models._LIMITS", {"model.safetensors": 1000})
    with pytest.raises(UserError, match=r"model.safetensors has \d+ bytes, expected at most 1000"):
        load_run(MODEL)
    assert not hub.count("resolve") and MAX_WEIGHTS_BYTES == 16 << 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ("GET /api/models", 500),
        ("GET /api/models", "slow"),
        ("HEAD .*resolve/[0-9a-f]{40}/", 429),
        ("GET .*resolve/[0-9a-f]{40}/", "cut"),
        ("GET /objects/", 500),
        ("GET /objects/", "cut"),
        ("GET /objects/", "slow"),
    ],
)
def test_a_brief_fault_is_not_noticed(request_: str, fault: int | str, hub: HubServer) -> None:
    hub.fault = nth(0, request_, fault)
    load_run(MODEL)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (503, r"http://127.0.0.1:\d+ answered 503 each time; run the same command again later"),
        (429, r"too many requests for the Hub \(a made fault\); wait as long, or some minutes, then run the same"),
        ("cut", r"no connection to http://127.0.0.1:\d+ .*; check the network, or set HF_ENDPOINT to a mirror"),
        ("wrong", "the Hub's answer is not usable"),
    ],
)
def test_a_lasting_fault_is_one_line_unless_the_model_is_cached(
    fault: int | str, error: str, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fault = lambda request: fault if request.startswith("GET /api/models") else None
    with pytest.raises(UserError, match=error):
        load_run(MODEL)
    hub.fault = lambda request: None
    load_run(MODEL)
    forget()
    hub.fault = lambda request: fault
    if fault != "wrong":
        load_run(MODEL)
        assert f"{MODEL}: the Hub cannot be reached; using the cached commit " in capsys.readouterr().err


def test_without_a_network_the_cache_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_run(MODEL)
    forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_run(MODEL)
    with pytest.raises(HubUnreachableError, match="needs the Hub, but HF_HUB_OFFLINE is set; unset it"):
        load_run(CLASSIFIER)


def test_a_torn_download_is_found_and_removed(hub: HubServer) -> None:
    """By the digest of the listing when it arrives, and by that of the cache later."""
    hub.fault = nth(0, "GET /objects/", "wrong")
    damaged = r"model.safetensors has digest [0-9a-f]{12}, expected [0-9a-f]{12}; the damaged copy was removed"
    with pytest.raises(UserError, match=damaged):
        load_run(MODEL)
    weights = load_run(MODEL).weights
    forget()
    cached = weights.resolve()
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=damaged):
        load_run(weights_name := name_of(weights))
    load_run(weights_name)


def joint_run(place: Path, out: Path, *overrides: str, resume: bool = False, **more: Any) -> RunRecord:
    """The record of a run of the joint stage that starts from the model on the Hub, of one step unless overridden."""
    sets = {"video": place / "videos" / "tokens" / "test-v2", "image": place / "images" / "tokens" / "test-v2"}
    given = [f"streams.{name}.tokens={tokens}" for name, tokens in sets.items()]
    given += [f"streams.{name}.global_batch=4" for name in sets]
    given += ["loop.num_workers=0", "loop.epochs=1", "loop.max_steps=1", f"init={MODEL}"]
    stage.pretrain(load_pretrain_recipe("nano_joint", [*given, *overrides]), out, resume=resume, **more)
    forget()
    return read_run(out)[1]


def test_a_run_is_pinned_to_the_commit(
    place: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = stage.workload_of
    monkeypatch.setattr(stage, "workload_of", lambda *given: replace(plan(*given), cost=None))  # counting takes seconds
    first = hub.repositories["model", "org/model"].commits[-1][0]
    record = joint_run(place, tmp_path / "run")
    recipe, _ = read_run(tmp_path / "run")
    assert record.init_revision == first and getattr(recipe, "init", None) == f"{MODEL}@{first}"
    assert record.init_sha256 == sha256_of(place / "packaged" / NAME / "model.safetensors")
    assert str(constants.HF_HUB_CACHE) not in (tmp_path / "run" / "recipe.yaml").read_text()

    hub.add("org/model", place / "classifier")  # main moves on
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if killed before the first checkpoint
    capsys.readouterr()
    hub.requests.clear()
    assert joint_run(place, tmp_path / "run", resume=True) == record and hub.requests == []
    assert f"starting from {MODEL}@{first}" in capsys.readouterr().out
    joint_run(place, tmp_path / "run", f"init={MODEL}@main", "loop.max_steps=2", resume=True)
    assert re.search(rf"init {MODEL}@main: .*run started from {MODEL}@{first}, which it keeps", capsys.readouterr().err)
    shutil.rmtree(tmp_path / "cache")
    hub.stop()
    assert joint_run(place, tmp_path / "run", "loop.max_steps=3", resume=True) == record  # the weights are not needed


@pytest.mark.parametrize("name", ["hf://model", "hf://org/model@../../x", "hf://org/model/config.json"])
def test_a_recipe_names_a_repository(name: str) -> None:
    with pytest.raises(UserError, match=r"init: .*hf://.*; expected (ORG/NAME, such as )?hf://ORG/NAME"):
        load_pretrain_recipe("nano_joint", [f"init={name}"])
