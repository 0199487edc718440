"""`bevt export --push-to`: a folder in one commit, private, repeated after faults; what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.hub import repository
from schemas.errors import UserError
from tests.support.hub_server import TOKEN, HubServer, hub_server, nth
from tests.support.json_keys import CheckKeys
from tests.support.packaged_models import NAME, packaged_model
from trainer import load_run

TO = "lab/model"
FILES = {"README.md", "config.json", "model.safetensors", "pretrained.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    packaged_model(place)
    return place


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with hub_server(tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def export(*arguments: object) -> str:
    """What the command prints. Raises its error."""
    result = CliRunner().invoke(cli.app, ["export", *map(str, arguments), "--json"], catch_exceptions=False)
    return result.output.splitlines()[-1]


def test_a_run_is_pushed_and_read_back(place: Path, hub: HubServer, json_keys: CheckKeys) -> None:
    result = json.loads(export(place / "run", "--push-to", TO, "--private", "--message", "The first"))
    json_keys("export --push-to", result)
    pushed = hub.repositories["model", TO]
    assert pushed.private and pushed.messages == ["initial commit", "The first"] and result["out"] is None
    assert result["pushed"] == f"hf://{TO}@{pushed.commits[-1][0]}" and pushed.files.keys() > FILES
    assert load_run(result["pushed"]).model.config == load_run(place / "run").model.config

    before = len(pushed.commits)
    hub.requests.clear()
    export(place / "packaged" / NAME, "--push-to", TO)  # the same files
    assert len(pushed.commits) == before and not hub.count("PUT|preupload")


def test_an_exported_folder_is_pushed_as_it_is(place: Path, hub: HubServer, tmp_path: Path) -> None:
    """With the README.md that its owner has edited, and without other files of the folder."""
    export(place / "run", "--out", tmp_path / "hub")
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (tmp_path / "hub" / ".git").mkdir()
    (tmp_path / "hub" / ".git" / "config").write_text("secret")
    (tmp_path / "hub" / ".env").write_text("secret")
    export("hub", "--push-to", TO, "--revision", "v1")
    found = hub.repositories["model", TO].at("v1")
    assert found is not None and not hub.repositories["model", TO].files.keys() & FILES  # main is unchanged
    files = found[1]
    assert files["README.md"] == b"---\nlicense: mit\n---\n# Mine\n" and files.keys() - {".gitattributes"} == FILES


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ("create", "cut"),
        ("GET /api", 429),
        ("preupload", 500),
        ("batch", "cut"),
        ("PUT", 503),
        ("commit", 500),
        ("commit", "cut"),  # it has arrived
    ],
)
def test_a_brief_fault_leaves_one_commit(request_: str, fault: int | str, place: Path, hub: HubServer) -> None:
    hub.fault = nth(0, request_, fault)
    export(place / "packaged" / NAME, "--push-to", TO)
    pushed = hub.repositories["model", TO]
    assert pushed.files.keys() > FILES and len(pushed.commits) == 2


def test_a_large_file_that_arrives_damaged_is_refused_by_the_hub(place: Path, hub: HubServer) -> None:
    hub.fault = lambda request: 400 if request.startswith("PUT") else None
    with pytest.raises(UserError, match="hf://lab/model: "):
        export(place / "packaged" / NAME, "--push-to", TO)
    assert len(hub.repositories["model", TO].commits) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--push-to", "model"], "'model' is no name of a repository; expected ORG/NAME"),
        (["--push-to", "lab/public", "--private"], "hf://lab/public: exists and is public; make it private on its"),
        (["--push-to", TO, "--format", "onnx", "--out", "x.onnx"], "only format hub is pushed; drop --push-to"),
        ([], "--out is missing: give a path to write to, or with format hub a repository as --push-to"),
        (["--format", "program", "--push-to", TO], "--out is missing"),
    ],
)
def test_what_is_refused_is_one_line(arguments: list[str], error: str, place: Path, hub: HubServer) -> None:
    hub.add("lab/public", place / "packaged" / NAME)
    before = len(hub.repositories["model", "lab/public"].commits)
    with pytest.raises(UserError, match=error):
        export(place / "packaged" / NAME, *arguments)
    assert len(hub.repositories["model", "lab/public"].commits) == before


@pytest.mark.parametrize(
    ("token", "error"),
    [(None, "the Hub does not accept the token; log in"), ("hf_other", "the Hub does not accept the token; log in")],
)
def test_without_the_right_token(
    token: str | None, error: str, place: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=error):
        export(place / "packaged" / NAME, "--push-to", TO)


def test_a_second_writer_is_refused(place: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another commit between the listing and ours."""
    hub.add(TO, place / "run")
    listed = repository.list_model

    def list_then_change(name: Any) -> Any:
        found = listed(name)
        hub.add(TO, place / "videos" / "tokens" / "test-v2")
        return found

    monkeypatch.setattr(repository, "list_model", list_then_change)
    with pytest.raises(UserError, match="another writer has changed it meanwhile; run the same command again"):
        export(place / "packaged" / NAME, "--push-to", TO)
