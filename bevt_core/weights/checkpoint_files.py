"""Reading of checkpoint files, ours and other projects': their tensors by name, or an error that describes the file.

No pickle in such a file runs code: torch's restricted unpickler allows tensors and plain containers, and the stand-ins
below replace the settings and logs that published checkpoints store beside their tensors.
"""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bevt_core.weights.surgery import StateDict
from schemas.errors import UserError

WANTED = "expected a checkpoint with tensors by name (.pth or .safetensors)"
# keys under which training codes store the tensors; SlowFast and TimeSformer use model_state
NESTINGS = ("state_dict", "model", "module", "model_state", "model_state_dict")
MAX_NESTED = 4  # mappings inside each other
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # prefixes of DistributedDataParallel and torch.compile
HEAD_BYTES = 512  # read to recognise the kind of a file
MAX_HEADER_BYTES = 8 << 20  # of a safetensors file; a model of 10,000 tensors has 1 MB
# raised by readers of damaged files
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
OTHER_FILES = (  # first bytes, description and advice
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned"),
    (
        rb"(?i)\s*<(!doctype|html|head|\?xml|!--)",
        "a web page, not a checkpoint: the download failed; download it again",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file; unpack it first"),
    (rb"\x89HDF", "an HDF5 file (Keras)"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"PAR1", "a Parquet file"),
    (rb"[\t\n\r\x20-\x7e]+$", "a text file"),
)


class _Unread:
    """Stand-in for an object that is not needed: accepts any arguments and state, and keeps nothing."""

    def __new__(cls, *arguments: Any, **options: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


UNREAD = (
    "mmengine.logging.history_buffer.HistoryBuffer",  # logs of mmengine's runner: mmaction2 1.x
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # a key of Lightning 1.x: VQGAN
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "builtins.getattr",  # used for methods of HistoryBuffer; a call returns an _Unread
)
STAND_INS: list[Any] = [
    *((_Unread, name) for name in UNREAD),
    (argparse.Namespace, "argparse.Namespace"),  # the options of MAE and VideoMAE: attributes, no code
    (OrderedDict, "yacs.config.CfgNode"),  # the configuration of Swin: a dict
]


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of any checkpoint, under the names that its model gives them.

    Raises UserError for any other file, naming its kind, and for a file that cannot be read without running code.
    """
    head = head_of(path)
    if is_safetensors(head):
        content: Any = load_safetensors(path)
    elif head.startswith((ZIP, PICKLE)):
        content = _read_pickle(path, is_zip=head.startswith(ZIP))
    else:
        raise UserError(f"{path}: {_looks_like(head)}; {WANTED}")
    state = _unnested(path, content)
    for key, tensor in state.items():
        _check_tensor(path, key, tensor)
    return {WRAPPERS.sub("", key): tensor for key, tensor in state.items()}


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file. Raises UserError if it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; {WANTED}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {WANTED}") from None
    if not head:
        raise UserError(f"{path}: an empty file (0 bytes); {WANTED}: download or copy it again")
    return head


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins like safetensors: eight bytes of a length, then a JSON object."""
    return head[8:9] == b"{" and not head.startswith((ZIP, PICKLE))


def _looks_like(head: bytes) -> str:
    return next((what for begins, what in OTHER_FILES if re.match(begins, head)), "not a checkpoint that can be read")


def load_safetensors(path: Path) -> StateDict:
    """Read the tensors of a safetensors file. Raises UserError if it is cut, damaged, or has an oversized header."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {header_bytes} bytes, expected at most {MAX_HEADER_BYTES}")
        state: StateDict = load_file(path)
        return state
    except UNREADABLE as error:
        raise UserError(f"{path}: a safetensors file that is cut or damaged ({first_line(error)}); {WANTED}") from None


def _read_pickle(path: Path, *, is_zip: bool) -> Any:
    if is_zip:
        _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
            warnings.simplefilter("ignore")  # about old pickle protocols
            # memory-mapped, so that a damaged record cannot be read beyond its end
            return torch.load(path, "cpu", weights_only=True, mmap=is_zip)
    except UNREADABLE as error:
        raise UserError(f"{path}: {_why(error)}; {WANTED}") from None


def _check_archive(path: Path) -> None:
    """Raise UserError for a zip archive that `torch.save` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except UNREADABLE as error:
        raise UserError(
            f"{path}: a .pth archive that is cut or damaged ({first_line(error)}); download or copy it again"
        ) from None
    names = [entry.filename for entry in entries]
    if any(name.partition("/")[2].startswith("code/") for name in names):
        raise UserError(f"{path}: a TorchScript program; {WANTED}")
    if not any(name.endswith("data.pkl") for name in names):
        first = f", first {names[0]}" if names else ""
        raise UserError(f"{path}: a zip archive of {len(names)} other files{first}; unpack it first: {WANTED}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: packed again, with compression; {WANTED}, as torch.save wrote it")


def _why(error: BaseException) -> str:
    """Describe the file that caused an error of torch's restricted unpickler."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked is None:
        return f"a checkpoint of torch that is cut or damaged ({first_line(error)})"
    if asked[1].startswith("dall_e."):
        return "a DALL-E tokenizer; run `bevt tokenizer convert encoder.pkl decoder.pkl --out DIR`"
    return (
        f"a pickle of the class {asked[1]}, which only its own code can read (nothing in it was run); use that code to "
        "save only the tensors: torch.save(model.state_dict(), FILE)"
    )


def first_line(error: BaseException) -> str:
    """Return an error's message in at most one line; for torch's restricted unpickler, its reason."""
    text = str(error).replace("Weights only load failed.", "").strip()
    detail = re.search(r"WeightsUnpickler error: (.*)", text)
    line = (detail[1] if detail else text.partition("\n")[0]).strip()
    return (line or type(error).__name__)[:160]


def _unnested(path: Path, content: Any) -> Mapping[Any, Any]:
    """Find the mapping of tensors in a checkpoint's content."""
    for _ in range(MAX_NESTED):
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: its content is of type {type(content).__name__}, not a dict; {WANTED}")
        inner = [name for name in NESTINGS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    if not any(isinstance(value, Tensor) for value in content.values()):
        keys = f"a dict of {', '.join(map(repr, list(content)[:5]))}" if content else "an empty dict"
        raise UserError(f"{path}: {keys}, without tensors at the top level or under {', '.join(NESTINGS)}; {WANTED}")
    tensors: Mapping[Any, Any] = content
    return tensors


def _check_tensor(path: Path, key: Any, tensor: Any) -> None:
    """Raise UserError for a value that cannot be a weight: another type, or a tensor larger than its stored data."""
    if not isinstance(key, str) or not isinstance(tensor, Tensor):
        raise UserError(f"{path}: {key!r} is of type {type(tensor).__name__}, not a tensor; {WANTED}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{path}: {key!r} is sparse, quantized or without data; expected a dense tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{path}: {key!r} has the shape {tuple(tensor.shape)}, larger than its data; it is damaged")
