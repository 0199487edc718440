"""Archives for tests: of folders, and of single members that a normal program would not write."""

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def write_tar(path: Path, folder: Path, *names: str, mode: str = "w", dot: bool = False) -> Path:
    """A tar of `names` in `folder` (default: all that is in it); with `dot`, names begin with `./`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name in names or sorted(entry.name for entry in folder.iterdir()):
            archive.add(folder / name, f"./{name}" if dot else name)
    return path


def write_zip(path: Path, folder: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of `names` in `folder` (default: all that is in it), with entries for folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names or sorted(entry.name for entry in folder.iterdir()):
            for file in sorted([folder / name, *(folder / name).rglob("*")]):
                archive.write(file, file.relative_to(folder))
    return path


def tar_of(members: Sequence[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with these (name, content), in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with these (name, content), in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def picture(seed: int) -> bytes:
    """A small JPEG."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 40)).rotate(7 * seed).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def write_pictures(root: Path, *names: str) -> Path:
    """Different small JPEGs under these names."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return root
