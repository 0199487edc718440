"""No file that is read runs code, whatever is in it: payloads that would touch a file, and a look for what could."""

import ast
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.tokenizers.peco.perceptual import Perceptual
from bevt_core.tokenizers.published.dalle import convert_pickles
from bevt_core.untrusted.files import read_mat
from bevt_core.untrusted.parquet_file import read_table
from bevt_core.weights.checkpoint_files import read_state_dict
from bevt_core.weights.export import save_hub_folder
from bevt_core.weights.model_files import import_video_swin, load_weights
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from trainer.engine.checkpoint import TRAINING, Checkpoints, read_checkpoint, state_of

REPO = Path(__file__).resolve().parents[2]


class Touch:
    """Pickled, a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def as_pth(touch: Touch) -> bytes:
    return saved({"state_dict": {"w": torch.zeros(2)}, "meta": touch})


def as_old_pth(touch: Touch) -> bytes:
    return saved({"state_dict": {"w": torch.zeros(2)}, "meta": touch}, _use_new_zipfile_serialization=False)


def as_pickle(touch: Touch) -> bytes:
    return pickle.dumps(touch)


def as_numpy(touch: Touch) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([touch], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def read_training(path: Path) -> object:
    """As the state beside a checkpoint's weights; digests do not help, as whoever changes it writes them too."""
    model = nn.Linear(2, 2)
    checkpoint = Checkpoints(path.parent / "checkpoints", keep=1).save(1, state_of(model), {}, {})
    (checkpoint / TRAINING).write_bytes(path.read_bytes())
    return read_checkpoint(checkpoint, model, lambda identity: None)


READERS: dict[str, Callable[[Path], object]] = {
    "a checkpoint": read_state_dict,
    "weights": load_weights,
    "a foreign classifier": import_video_swin,
    "a perceptual network": lambda path: Perceptual("test_vit", [0], str(path)),
    "a tokenizer's pickle": lambda path: convert_pickles(path, None, path.parent / "out"),
    "training state": read_training,
    "meta.mat": lambda path: read_mat(path, "synsets"),
}


@pytest.mark.parametrize("content", [as_pth, as_old_pth, as_pickle, as_numpy])
@pytest.mark.parametrize("reader", READERS)
def test_pickles(reader: str, content: Callable[[Touch], bytes], tmp_path: Path) -> None:
    if reader == "meta.mat" and content is not as_pickle:
        pytest.skip("one is enough: it starts a process")
    ran, path = tmp_path / "ran", tmp_path / "file.pth"
    path.write_bytes(content(Touch(ran)))
    with pytest.raises(UserError) as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)
    assert not ran.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(as_pth(Touch(tmp_path / "ran")))
    torch.load(tmp_path / "file.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"):
        (tmp_path / "x.yaml").write_text(f"title: !!python/{tag} ['touch {tmp_path}/ran']\n")
        with pytest.raises(UserError, match="not YAML"):
            load_recipe(str(tmp_path / "x.yaml"), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_hub_folders_config_names_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub"
    save_hub_folder(folder, build_classifier(**SWIN_SIZES["nano"], num_classes=3), {})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(folder))
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True, "architectures": ["evil.Model"]}
    (folder / "config.json").write_text(json.dumps(config | code))
    load_weights(folder / "model.safetensors")
    for kind in ("evil.Model", "evil:Model", "__import__('evil')", ["evil"]):
        (folder / "config.json").write_text(json.dumps({"bevt": config["bevt"] | {"kind": kind}} | code))
        with pytest.raises(UserError):
            load_weights(folder / "model.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "local-dir:evil", "test_vit.hf-hub:evil/model", "../evil"])
def test_a_network_is_one_of_timms_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model in timm"):
        Perceptual(name, [0], None)


def test_an_arrow_extension_is_not_unpickled(tmp_path: Path) -> None:
    """Older pyarrow ran the pickle of a type's metadata (CVE-2023-47248)."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Touch(tmp_path / "ran")),
    }
    schema = pa.schema([pa.field("x", pa.int64(), metadata=metadata)])
    pq.write_table(pa.table({"x": [1]}, schema=schema), tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet")["x"].to_pylist() == [1]
    assert not (tmp_path / "ran").exists()


def calls() -> list[tuple[str, str, dict[str, str]]]:
    """(file, function, keywords) of every call in the packages."""
    return [
        (path.name, ast.unparse(node.func), {key.arg or "**": ast.unparse(key.value) for key in node.keywords})
        for folder in ("schemas", "bevt_core", "pipeline", "trainer")
        for path in (REPO / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_what_could_run_code_is_not_called() -> None:
    found = calls()
    assert all(keywords.get("weights_only") == "True" for _, name, keywords in found if name == "torch.load")
    assert {file for file, name, _ in found if name.startswith("pickle.load")} == {
        "isolation.py",  # what its own child sends
        "shared_pickle.py",  # what a process handed to its own loader workers
    }
    assert {file for file, name, _ in found if name in ("yaml.load", "yaml.safe_load", "yaml.parse")} == {
        "yaml_text.py"
    }
    assert not [file for file, name, _ in found if name in ("eval", "exec", "torch.jit.load", "torch.hub.load")]
    assert not [file for file, _, keywords in found if {"trust_remote_code", "allow_pickle"} & keywords.keys()]
