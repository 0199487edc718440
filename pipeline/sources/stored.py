"""Selection of a frame store's sources by a list, which is read as it would be for the raw files."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from bevt_core.storage.objects import AnyPath
from pipeline.sources.class_names import class_index
from pipeline.sources.kinetics import list_k400
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import SourceListing, read_parquet_list
from pipeline.sources.something import list_ssv2
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem

SHOWN = 3  # missing sources quoted in an error


class NamedSources(Tree):
    """The sources of a frame store presented as a tree of files, under the names in the store."""

    def __init__(self, root: AnyPath, sources: Iterable[str], classes: tuple[str, ...]) -> None:
        self.root = root
        self.classes = classes
        self.allow_outside = True  # nothing is read here; links were checked when the store was made
        self._sources = dict.fromkeys(sources)

    def files(self, under: str = "") -> Iterator[str]:
        return (source for source in self._sources if not under or source.startswith(f"{under}/"))

    def folders(self, under: str = "") -> list[str]:
        return []

    def path_inside(self, path: str, where: str) -> str:
        """As for files, but an absolute path matches the source that it ends with, since the root is unknown here."""
        names = path.split("/")
        tails = ("/".join(names[first:]) for first in range(1, len(names))) if path.startswith("/") else ()
        return next((tail for tail in tails if tail in self._sources), None) or super().path_inside(path, where)

    def _roots(self) -> list[str]:
        return []

    def is_folder(self, path: str) -> bool:
        return False

    def is_file(self, path: str) -> bool:
        return path in self._sources


def _list_any(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    assert list_file is not None
    return list_from_file(tree, list_file, [split, f"videos/{split}", "videos", ""], "video")


LISTS: dict[str, Callable[[Tree, str, AnyPath | None], SourceListing]] = {
    "k400": list_k400,  # the official CSV, and either naming of files
    "ssv2": list_ssv2,
}


def choose_stored(
    folder: AnyPath, manifest: FrameStoreManifest, stored: Sequence[SourceItem], list_file: AnyPath
) -> list[SourceItem]:
    """Return the items of `stored`, from the frame store `folder`, that `list_file` names, in the store's order.

    The list is read in the format of the store's data set. Raises UserError for a source that the store lacks, and for
    a label that differs from the store's; labels are compared by class name, with the store's class map if the list has
    none.
    """
    if not list_file.is_file():
        raise UserError(f"`list_file` {list_file}: no such file")
    tree = NamedSources(folder, (item.source for item in stored), manifest.classes)
    if list_file.name.endswith(".parquet"):
        listing = read_parquet_list(tree, list_file)
    else:
        listing = LISTS.get(manifest.dataset, _list_any)(tree, manifest.split, list_file)
    if not listing.items:
        raise UserError(f"`list_file` {list_file}: names no sources; expected `path label` lines")
    if listing.missing:
        more = ", ..." if len(listing.missing) > SHOWN else ""
        raise UserError(
            f"`list_file` {list_file}: {len(listing.missing)} of its {len(listing.items)} sources are not in the frame "
            f"store {folder} ({', '.join(listing.missing[:SHOWN])}{more}). Remove them from the list, or store them; "
            "the rejected.parquet of each part lists sources that could not be used"
        )
    listed = {item.source: item.label for item in listing.items}
    chosen = [item for item in stored if item.source in listed]
    for item in chosen:
        _check_label(item, listed[item.source], listing, manifest.classes, f"`list_file` {list_file}")
    return chosen


def _check_label(
    item: SourceItem, label: int | None, listing: SourceListing, classes: tuple[str, ...], where: str
) -> None:
    """Raise UserError if `label`, the list's, differs from the item's; None always matches."""
    if label is None:
        return
    names = listing.classes or classes
    name = names[label] if 0 <= label < len(names) else str(label)
    if item.label is None or class_index(name, classes) != item.label:
        stored = "none" if item.label is None else f"{item.label} ({classes[item.label]!r})"
        raise UserError(
            f"{where}: {item.source} has label {label} ({name!r}), but {stored} in the frame store; fix the list, or "
            "put the class names of its numbers into a classes.txt beside it"
        )
