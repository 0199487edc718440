"""The site's navigation, filled from the folders in docs/, so that a new page needs no entry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of page: its title, its folder, and groups of pages in order. Pages in no group follow by their title."""

    title: str
    folder: str
    groups: Mapping[str, tuple[str, ...]]


KINDS = (
    Kind("Tutorials", "tutorials", {"": ("your-own-clips", "diving48", "first-run")}),
    Kind(
        "How-to",
        "how-to",
        {
            "Data": (
                "your-own-videos",
                "kinetics-400",
                "ssv2",
                "diving48",
                "imagenet",
                "howto100m",
                "archives",
                "object-storage",
                "read-shards",
            ),
            "Machines": ("one-gpu", "eight-gpus", "many-nodes", "slurm", "kubernetes"),
            "Training": (
                "several-targets",
                "tokenize-in-the-step",
                "watch-a-run",
                "repeat-a-run",
                "official-checkpoints",
            ),
            "Results": ("after-pretraining", "measure-features", "view", "python", "share-on-the-hub"),
            "Extending": ("add-a-dataset", "add-a-tokenizer", "add-a-mask", "add-an-encoder"),
        },
    ),
    Kind(
        "Reference",
        "reference",
        {"": ("commands", "recipe-keys", "recipes", "python-api", "format", "tokenizers", "troubleshooting")},
    ),
    Kind("Explanation", "explanation", {"": ("trip-of-a-frame", "views-and-tokens", "two-streams", "masks")}),
)


def navigation(docs: Path) -> list[dict[str, Any]]:
    """The `nav` of mkdocs for the pages below `docs`."""
    nav: list[dict[str, Any]] = [{"Home": "index.md"}]
    for kind in KINDS:
        entries = list(_entries(docs / kind.folder, kind))
        nav += [{kind.title: entries}] if entries else []
    project = ["project/contributing.md", "project/changelog.md", "project/security.md", "log.md"]
    return [*nav, {"Decisions": ["adr/README.md"]}, {"Project": project}]


def _entries(folder: Path, kind: Kind) -> list[Any]:
    pages = {page.stem: page for page in [*folder.glob("*.ipynb"), *folder.glob("*.md")]}
    entries: list[Any] = []
    for title, names in kind.groups.items():
        group = [_place(kind, name) for name in names if pages.pop(name, None)]
        entries += [{title: group}] if title and group else group
    return entries + [_place(kind, page.stem) for page in sorted(pages.values(), key=_title)]


def _place(kind: Kind, name: str) -> str:
    return f"{kind.folder}/{name}.md"


def _title(page: Path) -> str:
    return page.read_text().partition("\n")[0]
