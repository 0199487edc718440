"""Packages outside the tree, installed in a folder: Python files and the metadata that pip would write."""

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, entry_points: Mapping[str, str], files: Mapping[str, str]) -> Path:
    """Install version 1.0 of the distribution `name`, whose entry points are tokenizer kinds; returns `folder`."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{kind} = {reference}" for kind, reference in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[bevt.tokenizers]", *lines, ""]))
    return folder
