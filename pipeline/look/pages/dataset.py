"""The site of a dataset: an overview, its samples by class and name, and its rejected sources by reason."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from bevt_core.console.inert import one_line
from bevt_core.dataset.commits import part_name
from bevt_core.reporting.page import Page
from bevt_core.storage.files import map_in_threads
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import read_table
from bevt_core.viewer.marks import address, choose, link, links, neighbours, search_box, search_form, tile
from bevt_core.viewer.query import Query
from bevt_core.viewer.site import Site
from pipeline.look.contact_sheet import spread
from pipeline.look.pages.opened import OpenDataset
from pipeline.look.pages.sample import SamplePages
from pipeline.look.sample import set_facts
from schemas.errors import UserError

TILES, ON_OVERVIEW = 48, 12  # samples on a page
CLASSES = 40  # listed on the overview
MAX_CLASSES = 2000  # in the list to choose from
REJECTED, PARTS_AT_ONCE = 100, 64  # rows on a page; parts read for one
MAX_PAGES = 10**9
ALL, UNLABELLED = "all", "none"  # in place of a class


def dataset_site(path: AnyPath, *, tokenizer: str | None = None, clips: str | None = None) -> Site | None:
    """The site of the dataset at `path`; None if it is none. `tokenizer` decodes the tokens if theirs has moved.

    Raises UserError if `clips`, which are those of an evaluation, are given.
    """
    if not (path / "frames").is_dir():
        return None
    if clips is not None:
        raise UserError(f"{path} is a dataset; leave out `clips`, which are those of an evaluation")
    return DatasetPages(OpenDataset(path, tokenizer)).site()


class DatasetPages:
    """The pages that list samples and sources."""

    def __init__(self, data: OpenDataset) -> None:
        self.data = data

    def site(self) -> Site:
        sample = SamplePages(self.data)
        pages = {"": self.overview, "samples": self.samples, "rejected": self.rejected, **sample.pages()}
        menu = {"Overview": ".", "Samples": "samples", "Rejected sources": "rejected"}
        return Site(pages, menu)

    def overview(self, query: Query) -> Page:
        manifest = self.data.store.manifest
        page = Page(f"{manifest.dataset} {manifest.split}")
        rejected = sum(manifest.rejected.values())
        page.text(
            f"{manifest.num_samples:,} samples with {manifest.num_frames:,} stored frames, from "
            f"{manifest.num_sources:,} sources in {manifest.num_parts:,} parts; {rejected:,} sources rejected.",
            "lead",
        )
        page.text(str(self.data.path), "quiet")
        numbers = spread(len(self.data.store.samples), ON_OVERVIEW)
        self._tiles(page, numbers)
        page.heading("Token sets")
        self._token_sets(page)
        if manifest.classes:
            page.heading("Classes")
            self._classes(page, manifest.classes)
        page.heading("Rejected sources")
        self._reasons(page)
        return page

    def samples(self, query: Query) -> Page:
        samples, classes = self.data.store.samples, self.data.store.manifest.classes
        options = {ALL: "all classes", UNLABELLED: "no class"}
        options |= {str(label): name for label, name in enumerate(classes[:MAX_CLASSES])}
        chosen, name = query.choice("label", options, ALL), query.text("name")
        kept_N = np.ones(len(samples), bool)
        if chosen == UNLABELLED:
            kept_N &= pc.is_null(samples["label"]).to_numpy(zero_copy_only=False)
        elif chosen != ALL:
            kept_N &= pc.equal(samples["label"], int(chosen)).fill_null(False).to_numpy(zero_copy_only=False)
        if name:
            kept_N &= pc.match_substring(samples["sample_id"], name).to_numpy(zero_copy_only=False)
        found = np.flatnonzero(kept_N)
        number = query.integer("page", 0, MAX_PAGES, 0)
        first = number * TILES
        page = Page("Samples")
        fields = [choose("Class", "label", options, chosen), search_box("Part of the id", "name", name)]
        page.mark(search_form("samples", fields, "Show"))
        shown = found[first : first + TILES].tolist()
        which = f"{first + 1:,} to {first + len(shown):,} of {len(found):,}" if shown else f"none of {len(found):,}"
        page.text(f"Samples: {which}.", "quiet")
        self._tiles(page, shown)
        page.mark(neighbours("samples", number, TILES, len(found), label=chosen, name=name))
        return page

    def rejected(self, query: Query) -> Page:
        """Sources of one reason or all, from part `part` on, without the first `skip` of that part."""
        manifest = self.data.store.manifest
        page = Page("Rejected sources")
        if not manifest.rejected:
            page.text("No source was rejected.")
            return page
        reasons = {"": "all reasons"} | {reason: f"{reason}: {n:,}" for reason, n in sorted(manifest.rejected.items())}
        reason = query.choice("reason", reasons, "")
        part, skip = query.integer("part", 0, manifest.num_parts, 0), query.integer("skip", 0, MAX_PAGES, 0)
        page.mark(search_form("rejected", [choose("Reason", "reason", reasons, reason)], "Show"))
        parts = range(part, min(part + PARTS_AT_ONCE, manifest.num_parts))
        folder = self.data.store.path
        tables = map_in_threads(lambda each: read_table(folder / part_name(each) / "rejected.parquet"), parts, folder)
        rows: list[Sequence[object]] = []
        following = {"part": parts.stop, "skip": 0}
        for each, table in zip(parts, tables, strict=True):
            of_part = [row for row in table.to_pylist() if reason in ("", row["reason"])]
            start = skip if each == part else 0
            room = REJECTED - len(rows)
            for row in of_part[start : start + room]:
                name = self.data.class_name(row["label"]) if manifest.classes else ""
                rows.append((row["source"], name, row["reason"], row["stage"], row["message"], row["attempts"]))
            if len(of_part) - start > room:
                following = {"part": each, "skip": start + room}
                break
        page.table(["source", "class", "reason", "stage", "message", "attempts"], rows)
        if not rows:
            page.text(f"None in parts {part} to {parts.stop - 1}.")
        if following["part"] < manifest.num_parts:
            page.mark(links({"Next": address("rejected", reason=reason, **following)}))
        return page

    def _tiles(self, page: Page, numbers: Sequence[int]) -> None:
        samples = self.data.store.samples
        with page.arranged("wall"):
            for number in numbers:
                place = self.data.place_of(number)._asdict()
                caption = samples["sample_id"][number].as_py()
                if self.data.store.manifest.classes:
                    name = self.data.class_name(samples["label"][number].as_py())
                    caption = caption if caption.startswith(f"{name}/") else f"{name}: {caption}"
                page.mark(tile(address("thumb", **place), address("sample", **place), caption))

    def _token_sets(self, page: Page) -> None:
        rows: list[Sequence[object]] = []
        for number, folder in enumerate(self.data.set_folders):
            try:
                manifest = self.data.token_set(number).manifest.model_dump(mode="json")
                rows.append((folder.name, *set_facts({folder.name: manifest})[folder.name].values()))
            except (UserError, OSError) as error:
                rows.append((folder.name, str(error), "", "", "", ""))
        if rows:
            page.table(["token set", "tokenizer", "codes", "grid", "computed in", "views"], rows)
        else:
            page.text("There is no finished token set.")

    def _classes(self, page: Page, classes: Sequence[str]) -> None:
        labels = self.data.store.samples["label"].drop_null().to_numpy()
        count_V = np.bincount(labels, minlength=len(classes))
        order = np.argsort(-count_V, kind="stable")[:CLASSES].tolist()
        rows = [
            (link(one_line(classes[label]), address("samples", label=label)), int(count_V[label])) for label in order
        ]
        page.table(["class", "samples"], rows)
        if len(classes) > CLASSES:
            page.text(
                f"The {CLASSES} largest of {len(classes):,} classes; all are on the page of the samples.", "quiet"
            )

    def _reasons(self, page: Page) -> None:
        reasons = self.data.store.manifest.rejected
        if not reasons:
            page.text("No source was rejected.")
            return
        by_count = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        page.table(
            ["reason", "sources"], [(link(reason, address("rejected", reason=reason)), n) for reason, n in by_count]
        )
