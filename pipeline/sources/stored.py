"""What a list chooses among the sources of a frame store, found as it would find them among the files."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from bevt_core.storage.objects import AnyPath
from pipeline.sources.class_names import class_index
from pipeline.sources.kinetics import list_k400
from pipeline.sources.list_lines import list_from_file
from pipeline.sources.listing import SourceListing, read_parquet_list
from pipeline.sources.something import list_ssv2
from pipeline.sources.tree import Tree
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem

SHOWN = 3  # of the sources that are not there


class NamedSources(Tree):
    """The sources of a frame store as files below it, by the names that they have there."""

    def __init__(self, root: AnyPath, sources: Iterable[str], classes: tuple[str, ...]) -> None:
        self.root = root
        self.classes = classes
        self.allow_outside = True  # nothing is read; where the store was made says what lay outside
        self._sources = dict.fromkeys(sources)

    def files(self, under: str = "") -> Iterator[str]:
        return (source for source in self._sources if not under or source.startswith(f"{under}/"))

    def folders(self, under: str = "") -> list[str]:
        return []

    def inside(self, path: str, where: str) -> str:
        """As among files; an absolute path is the source that it ends in, since the root is not known here."""
        names = path.split("/")
        tails = ("/".join(names[first:]) for first in range(1, len(names))) if path.startswith("/") else ()
        return next((tail for tail in tails if tail in self._sources), None) or super().inside(path, where)

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
    """Return those of the `stored` items of the frame store `folder` that `list_file` names, in the store's order.

    The list is read as for the store's dataset. Raises UserError for a source that the store lacks, and for a label
    that is not the store's: they are compared by name, with those of the store where the list has no class map.
    """
    if not list_file.is_file():
        raise UserError(f"`list_file` {list_file}: no such file")
    tree = NamedSources(folder, (item.source for item in stored), manifest.classes)
    if list_file.name.endswith(".parquet"):
        listing = read_parquet_list(tree, list_file)
    else:
        listing = LISTS.get(manifest.dataset, _list_any)(tree, manifest.split, list_file)
    if not listing.items:
        raise UserError(f"`list_file` {list_file}: names nothing")
    if listing.missing:
        more = ", ..." if len(listing.missing) > SHOWN else ""
        raise UserError(
            f"`list_file` {list_file}: {len(listing.missing)} of its {len(listing.items)} sources are not in the frame "
            f"store {folder} ({', '.join(listing.missing[:SHOWN])}{more}); take them out of the list, or store them; "
            "rejected.parquet of each part says which could not be used"
        )
    listed = {item.source: item.label for item in listing.items}
    chosen = [item for item in stored if item.source in listed]
    for item in chosen:
        _check_label(item, listed[item.source], listing, manifest.classes, f"`list_file` {list_file}")
    return chosen


def _check_label(
    item: SourceItem, label: int | None, listing: SourceListing, classes: tuple[str, ...], where: str
) -> None:
    """`label` is the list's; none of it means whatever the store has."""
    if label is None:
        return
    names = listing.classes or classes
    name = names[label] if 0 <= label < len(names) else str(label)
    if item.label is None or class_index(name, classes) != item.label:
        here = "none" if item.label is None else f"{item.label} ({classes[item.label]!r})"
        raise UserError(
            f"{where}: {item.source} has label {label} ({name!r}), but {here} in the frame store; mend the list, or "
            "put the names of the classes that its numbers mean into a classes.txt beside it"
        )
