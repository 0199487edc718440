"""Export of models: a folder in the Hugging Face Hub's layout, a `torch.export` program, and ONNX."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save as serialize
from torch import nn

from bevt_core.console.installation import install_command
from bevt_core.models.classifier import Classifier
from bevt_core.storage.files import write_atomic
from bevt_core.storage.locks.writers import hold_file
from bevt_core.storage.staging import staged_folder
from bevt_core.weights.hub_models import CONFIG, model_folder
from bevt_core.weights.model_files import BUILDERS, Model, load_weights
from bevt_core.weights.packaged import HUB_WEIGHTS, expected, find_packaged, packaged_names
from schemas.errors import UserError
from schemas.text.hub_name import SCHEME, repository_name
from schemas.text.json_text import json_text

ONNX_TOLERANCE = 1e-4  # largest difference of logits; measured 5e-8 for a nano classifier


class HubModel(nn.Module, PyTorchModelHubMixin):
    """A model with `save_pretrained` and `from_pretrained`: config.json beside model.safetensors.

    `bevt` is the wrapped model's config, so that the folder alone is enough to rebuild it. config.json also has
    `model_type: bevt`, which no class of transformers has: its Auto classes refuse the folder. No code is in it.
    """

    def __init__(self, bevt: dict[str, Any]) -> None:
        super().__init__()
        sizes = {key: value for key, value in bevt.items() if key != "kind"}
        self.model = BUILDERS[bevt["kind"]](**sizes)

    def forward(self, *args: Any) -> Any:
        return self.model(*args)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Replaces the library's method, which writes with mode 0600 and reports a full disk as a safetensors error."""
        state = {key: tensor.contiguous() for key, tensor in self.state_dict().items()}
        (save_directory / HUB_WEIGHTS).write_bytes(serialize(state))
        described = {"bevt": dict(sorted(self.model.config.items())), "model_type": "bevt"}
        (save_directory / CONFIG).write_text(json_text(described, indent=2))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the library's other options have no meaning here
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> "HubModel":
        """Load an exported folder, a model of the package by its name, or a repository on the Hub, in evaluation mode.

        A repository is hf://ORG/NAME@REVISION, or ORG/NAME and `revision`; its digests are checked. Raises UserError
        for anything else, for damaged files, and if there is no such repository.
        """
        weights = _pretrained_weights(pretrained_model_name_or_path, revision)
        model = load_weights(weights)
        with torch.device("meta"):
            wrapped = cls(bevt=model.config)
        wrapped.model = model
        return wrapped.eval()


def _pretrained_weights(name: str | Path, revision: str | None) -> Path:
    """The weights of a model by name. A path that exists wins over a name."""
    if not Path(name).exists() and str(name) not in packaged_names():
        if not str(name).startswith(SCHEME) and str(name).count("/") != 1:
            raise UserError(f"{name}: {expected(name, 'an exported folder, or a repository such as hf://ORG/NAME')}")
        return model_folder(repository_name(str(name), revision)) / HUB_WEIGHTS
    if revision is not None:
        raise UserError(f"{name}: is not on the Hub and has no `revision` {revision}; leave out `revision`")
    found = find_packaged(Path(name))
    return found / HUB_WEIGHTS if found.is_dir() else found


def save_hub_folder(folder: Path, model: Model, files: Mapping[str, str]) -> None:
    """Write `model` atomically so that HubModel.from_pretrained can read it, from the folder or from the Hub.

    `files`, name -> text, are written beside it, including `README.md`, the model card. Raises UserError if `folder`
    exists.
    """
    wrapped = HubModel(bevt=model.config)
    wrapped.model.load_state_dict(model.state_dict())
    with hold_file(folder, "bevt export"):
        if folder.exists():
            raise UserError(f"{folder} exists; give another `out`")
        with staged_folder(folder) as staging:
            for name, text in files.items():
                (staging / name).write_text(text)
            wrapped.save_pretrained(staging)


def save_program(path: Path, classifier: Classifier, *, frames: int, size_px: int) -> None:
    """Write clip (B, 3, frames, size_px, size_px) -> logits (B, V) as a `torch.export` program for any batch size.

    `torch.export.load(path).module()(clip)` runs it without this package.
    """
    clip_BCTHW = torch.zeros(2, 3, frames, size_px, size_px)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(classifier.eval(), (clip_BCTHW,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)  # saving to a file would report a full disk as an internal error
    with hold_file(path, "bevt export"):
        write_atomic(path, buffer.getvalue())


@torch.no_grad()
def save_onnx(path: Path, classifier: Classifier, *, frames: int, size_px: int) -> float:
    """Write `clip` (batch, 3, frames, size_px, size_px) -> `logits` (batch, V) for ONNX runtimes, any batch size.

    First runs it on random clips in onnxruntime; returns the largest difference from torch's logits. Raises
    RuntimeError, and writes nothing, if that exceeds ONNX_TOLERANCE; UserError if the extra `onnx` is not installed.
    """
    try:
        import onnxruntime  # noqa: F401 - needed to check the file
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(f"{error}; ONNX needs `{install_command('onnx')}`") from None
    exported = torch.onnx.export(
        classifier.eval(),
        (torch.zeros(2, 3, frames, size_px, size_px),),
        dynamo=True,
        input_names=["clip"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert exported is not None
    data = exported.model_proto.SerializeToString()
    worst = onnx_difference(data, classifier, frames=frames, size_px=size_px)
    if not worst <= ONNX_TOLERANCE:
        raise RuntimeError(
            f"{path}: not written; onnxruntime's logits differ from torch's by {worst:g}, more than {ONNX_TOLERANCE:g}"
        )
    with hold_file(path, "bevt export"):
        write_atomic(path, data)
    return worst


@torch.no_grad()
def onnx_difference(data: bytes, classifier: Classifier, *, frames: int, size_px: int) -> float:
    """Return the largest difference between onnxruntime's and torch's logits, for random batches of 1 and 2 clips."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch_size in (1, 2):
        clip_BCTHW = torch.randn(batch_size, 3, frames, size_px, size_px, generator=generator)
        (logits_BV,) = session.run(None, {"clip": clip_BCTHW.numpy()})
        worst = max(worst, float((torch.from_numpy(logits_BV) - classifier(clip_BCTHW)).abs().max()))
    return worst
