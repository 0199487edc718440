"""Push an exported model to the Hugging Face Hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bevt_core.hub.repository import Visibility, push_folder
from bevt_core.storage.staging import scratch_folder
from bevt_core.weights.hub_models import is_exported
from bevt_core.weights.packaged import find_packaged
from schemas.text.hub_name import HubName, hub_name
from trainer.show.model_card import export_hub


def push_model(
    checkpoint: Path | str,
    out: Path | None,
    to: HubName,
    *,
    evaluations: Sequence[Path] = (),
    visibility: Visibility = "as-is",
    message: str = "Add a model exported by bevt",
) -> HubName:
    """Export a model to `out`, as `export_hub` does, and push the folder to a repository; return its pinned name.

    Without `out` the folder is temporary. An exported folder is then pushed as it is, with a README.md that its owner
    has edited. Raises UserError as `export_hub` does, and for a repository that cannot be written.
    """
    with _exported(checkpoint, out, evaluations) as folder:
        return push_folder(folder, to, visibility, message)


@contextmanager
def _exported(checkpoint: Path | str, out: Path | None, evaluations: Sequence[Path]) -> Iterator[Path]:
    if hub_name(checkpoint) is None and out is None and is_exported(folder := find_packaged(Path(checkpoint))):
        yield folder
    elif out is not None:
        export_hub(checkpoint, out, evaluations)
        yield out
    else:
        with scratch_folder("export") as scratch:
            export_hub(checkpoint, scratch / "model", evaluations)
            yield scratch / "model"
