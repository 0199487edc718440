"""A file that is not a checkpoint raises one error with its path and kind; settings beside the tensors are accepted."""

import argparse
import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dall_e
import numpy as np
import pytest
import torch
from safetensors.torch import save as serialize

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.weights.checkpoint_files import read_state_dict
from bevt_core.weights.model_files import import_torchvision, import_video_swin, load_weights, save_weights
from schemas.errors import UserError
from tests.support.foreign_checkpoints import as_video_swin, small_swin3d

NANO = SWIN_SIZES["nano"]
TENSORS = {"conv.weight": torch.ones(2, 3)}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def compressed_again(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


class Tracker:
    """Content that a training code may store in its checkpoint."""


BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "0 bytes": (lambda: b"", r"an empty file \(0 bytes\)"),
    "LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 353231\n",
        "a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    "HTML": (lambda: b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page, not a checkpoint"),
    "XML": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "text": (lambda: b"see the wiki\n", "a text file"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(20), "a compressed file; unpack it first"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(20), r"an HDF5 file"),
    "noise": (lambda: bytes(range(129, 250)), "not a checkpoint that can be read"),
    "cut zip": (lambda: saved(TENSORS)[:-100], r"a \.pth archive that is cut or damaged"),
    "cut old file": (lambda: saved(TENSORS, _use_new_zipfile_serialization=False)[:-10], "cut or damaged"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}), "cut or damaged"),
    "zip of pictures": (lambda: zipped({"a.png": b"", "b.png": b""}), r"a zip archive of 2 other files, first a\.png"),
    "compressed again": (lambda: compressed_again(saved(TENSORS)), "packed again, with compression"),
    "TorchScript": (lambda: zipped({"a/data.pkl": b"", "a/code/a.py": b""}), "a TorchScript program"),
    "list": (lambda: saved([TENSORS]), "its content is of type list, not a dict"),
    "one tensor": (lambda: saved(torch.ones(3)), "its content is of type Tensor, not a dict"),
    "no tensors": (
        lambda: saved({"epoch": 3}),
        "a dict of 'epoch', without tensors at the top level or under state_dict, model",
    ),
    "empty dict": (lambda: saved({}), "an empty dict"),
    "a number among tensors": (lambda: saved({**TENSORS, "epoch": 3}), "'epoch' is of type int, not a tensor"),
    "expanded": (lambda: saved({"w": torch.ones(1).expand(1 << 40)}), "larger than its data"),
    "sparse": (lambda: saved({"w": torch.ones(2, 2).to_sparse()}), "sparse"),
    "foreign class": (lambda: saved({"state_dict": TENSORS, "best": Tracker()}), r"a pickle of the class \S+Tracker"),
    "DALL-E": (
        lambda: saved(dall_e.Encoder(n_hid=8, vocab_size=16)),
        "a DALL-E tokenizer; run `bevt tokenizer convert",
    ),
    "cut safetensors": (lambda: serialize(TENSORS)[:-4], "a safetensors file that is cut or damaged"),
    "safetensors with a broken header": (
        lambda: struct.pack("<Q", 9) + b'{"a": oh}' + bytes(8),
        "a safetensors file that is cut or damaged",
    ),
    "safetensors with a huge header": (lambda: struct.pack("<Q", 1 << 60) + b"{}" + bytes(8), "cut or damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("read", [read_state_dict, import_video_swin, load_weights])
def test_a_bad_file_is_named(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    make, expected = BAD_FILES[name]
    (tmp_path / "theirs.pth").write_bytes(make())
    with pytest.raises(UserError, match=expected) as raised:
        read(tmp_path / "theirs.pth")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'theirs.pth'}: ")
    assert "\n" not in message


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder; expected a checkpoint"):
        read_state_dict(tmp_path)
    with pytest.raises(UserError, match="No such file or directory; expected a checkpoint"):
        read_state_dict(tmp_path / "theirs.pth")


def test_settings_and_logs_beside_the_tensors_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VideoMAE stores its options, Swin a yacs node, mmaction2 1.x NumPy arrays, VQGAN a class of Lightning."""

    def module(name: str, **content: type) -> None:
        for end in [*(at for at, letter in enumerate(name) if letter == "."), len(name)]:
            monkeypatch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
        for key, value in content.items():
            value.__module__ = name
            setattr(sys.modules[name], key, value)

    class CfgNode(dict):  # type: ignore[type-arg]
        pass

    class HistoryBuffer:
        def __init__(self) -> None:
            self.log, self.smallest = np.ones(3), np.float64(1.0)

    class ModelCheckpoint:
        pass

    for type_ in (CfgNode, HistoryBuffer, ModelCheckpoint):
        type_.__qualname__ = type_.__name__
    module("yacs.config", CfgNode=CfgNode)
    module("mmengine.logging.history_buffer", HistoryBuffer=HistoryBuffer)
    module("pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint=ModelCheckpoint)
    node = CfgNode(lr=0.1)
    node.frozen = True  # type: ignore[attr-defined]
    content = {
        "model": TENSORS,
        "args": argparse.Namespace(lr=0.1),
        "config": node,
        "message_hub": {"loss": HistoryBuffer()},
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.zeros(1)}},
    }
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "theirs.pth", weights_only=True)
    for name in ("yacs.config", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    state = read_state_dict(tmp_path / "theirs.pth")
    assert state.keys() == TENSORS.keys()
    assert torch.equal(state["conv.weight"], TENSORS["conv.weight"])


def test_wrapper_prefixes_are_removed(tmp_path: Path) -> None:
    for nesting in ("state_dict", "model", "module", "model_state"):
        torch.save({"epoch": 3, nesting: {"module._orig_mod.conv.weight": torch.ones(2)}}, tmp_path / "theirs.pth")
        assert list(read_state_dict(tmp_path / "theirs.pth")) == ["conv.weight"]


def test_the_format_is_read_from_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(serialize(TENSORS))
    (tmp_path / "b.bin").write_bytes(saved(TENSORS, _use_new_zipfile_serialization=False))
    for name in ("a.pth", "b.bin"):
        assert torch.equal(read_state_dict(tmp_path / name)["conv.weight"], TENSORS["conv.weight"])


def test_own_weights_need_no_import(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", build_classifier(**NANO, num_classes=5))
    with pytest.raises(UserError, match="weights of bevt already; give it to --init unchanged"):
        import_video_swin(tmp_path / "weights.safetensors")


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    whole = as_video_swin(small_swin3d().state_dict())
    path = tmp_path / "theirs.pth"

    def refused(state: dict[str, torch.Tensor]) -> str:
        torch.save({"state_dict": state}, path)
        with pytest.raises(UserError) as raised:
            import_video_swin(path)
        return str(raised.value)

    lacking = {key: tensor for key, tensor in whole.items() if key != "backbone.layers.1.blocks.1.norm2.bias"}
    assert "encoder.stages.1.blocks.1.norm2.bias is missing" in refused(lacking)
    assert "backbone.neck.weight: not a key of a Video Swin classifier" in refused(
        {**whole, "backbone.neck.weight": torch.ones(1)}
    )
    assert "a second key" in refused({**whole, "backbone.norm3.weight": whole["backbone.norm.weight"]})
    assert "encoder.stages.0.blocks.0.attn.qkv.weight is torch.float32 (3, 16)" in refused(
        {**whole, "backbone.layers.0.blocks.0.attn.qkv.weight": torch.ones(3, 16)}
    )
    with pytest.raises(UserError, match=r"a Video Swin classifier; run .*--kind video-swin"):
        torch.save({"state_dict": whole}, path)
        import_torchvision(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"kind": "classifier", "encoder": "swin", "num_classes": 5}, "inconsistent content"),
        ({"kind": "detector"}, "inconsistent content"),
        ({**build_classifier(**NANO, num_classes=5).config, "depths": [2, 2, 10**9]}, "blocks, but the file has only"),
        ({**build_classifier(**NANO, num_classes=5).config, "embed_dim": 96}, "of another architecture"),
        ({**build_classifier(**NANO, num_classes=5).config, "embed_dim": 10**9}, "inconsistent content"),
        ([], r"the content is \[\], expected an object"),
    ],
)
def test_a_config_that_does_not_fit_its_weights(config: Any, expected: str, tmp_path: Path) -> None:
    state = build_classifier(**NANO, num_classes=5).state_dict()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(serialize(state, metadata={"bevt_config": json.dumps(config)}))
    with pytest.raises(UserError, match=expected):
        load_weights(path)
