"""Our models in other libraries' loaders: `from_pretrained`, transformers' Auto classes, `torch.hub`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bevt_core import HubModel
from bevt_core.weights.packaged import PRETRAINED
from schemas.errors import UserError
from tests.conftest import REPO
from tests.support.hub_server import HubServer, hub_server
from trainer import features, load_run

NANO = PRETRAINED / "bevt-nano"


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    with hub_server(tmp_path / "cache") as server:
        yield server


def test_from_pretrained_takes_a_folder_a_name_and_a_repository(hub: HubServer, tmp_path: Path) -> None:
    first = hub.add("org/model", NANO)
    hub.add("org/model", tmp_path)  # main has no files now
    expected = load_run("bevt-nano").model.state_dict()
    given: tuple[tuple[Any, str | None], ...]
    given = (NANO, None), (str(NANO), None), (NANO / "model.safetensors", None), ("bevt-nano", None)
    given += (f"hf://org/model@{first}", None), ("org/model", first), ("hf://org/model", first)
    for name, revision in given:
        loaded = HubModel.from_pretrained(name, revision=revision)
        assert not loaded.training and loaded.model.config == load_run("bevt-nano").model.config
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.model.state_dict().items())


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    HubModel.from_pretrained("bevt-nano").save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (NANO / "config.json").read_text()
    )
    HubModel.from_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "revision", "error"),
    [
        ("bevt-nan", None, "did you mean 'bevt-nano'.* expected an exported folder, or a repository such as hf://ORG"),
        ("bevt-nano", "v1", "bevt-nano: is not on the Hub and has no `revision` v1"),
        ("org/none", None, "hf://org/none: no such repository"),
        ("a/b/c", None, "expected an exported folder"),
        ("hf://a/b/c", None, "is no name of a repository"),
    ],
)
def test_other_names_are_refused(name: str, revision: str | None, error: str, hub: HubServer) -> None:
    with pytest.raises(UserError, match=error):
        HubModel.from_pretrained(name, revision=revision)


def test_transformers_refuses_our_folders_by_their_type(tmp_path: Path) -> None:
    """Older versions guess a class from the folder's name, such as `swin`, if there is no type. We ship no code."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bevt-swin"
    HubModel.from_pretrained("bevt-nano").save_pretrained(folder)
    assert not list(folder.glob("*.py")) and "auto_map" not in json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="model type `bevt` but Transformers does not recognize"):
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_torch_hub_loads_an_encoder() -> None:
    clips_BTHWC = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    expected = features(load_run("bevt-nano"), clips_BTHWC)
    encoder = torch.hub.load(str(REPO), "bevt_nano", source="local")
    from trainer import normalise

    with torch.no_grad():
        torch.testing.assert_close(encoder(normalise(clips_BTHWC)), expected)
        other = torch.hub.load(str(REPO), "encoder", str(NANO), source="local")
        torch.testing.assert_close(other(normalise(clips_BTHWC)), expected)
