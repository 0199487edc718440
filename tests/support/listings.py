"""Stub files of a data set, and what a listing of them says."""

from pathlib import Path

from pipeline.sources import SourceListing


def touch(root: Path, *paths: str) -> Path:
    """Stub files; listing does not open them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def labels(listing: SourceListing) -> dict[str, str | None]:
    """source -> class name."""
    return {item.source: None if item.label is None else listing.classes[item.label] for item in listing.items}
