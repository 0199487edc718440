"""The page of one sample: its frames, its views and their tokens decoded, and masks drawn over it by sliders.

Legend: T tubelets or frames, H W pixels or token grid, C channels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from bevt_core.console.readable import count
from bevt_core.reporting.animations import enlarged, side_by_side, webp
from bevt_core.reporting.marks import Html
from bevt_core.reporting.page import Page, cells
from bevt_core.reporting.pictures import MARK, hide
from bevt_core.rng import rng_for
from bevt_core.viewer.marks import address, choose, film, hidden, links, live_form, slider
from bevt_core.viewer.query import NoSuchPage, Query
from bevt_core.viewer.site import Handler
from bevt_core.views.replay import box_of
from pipeline.look.pages.opened import OpenDataset, Place, place_in
from schemas.views import View

THUMB_PX, PANEL_PX = 160, 192
MASKED_PX, MASKED_FRAMES = 128, 16  # of a masked clip: least side of a frame, most frames
MAX_SETS, MAX_VIEWS = 1000, 10000  # larger numbers are no address
TUBELET = 2  # frames, as in the video models
RATIO_PERCENT, MIN_BLOCK, MAX_SEED = 50, 16, 99  # of the sliders: two defaults and the last seed


class SamplePages:
    """The page of a sample, and the pictures on it."""

    def __init__(self, data: OpenDataset) -> None:
        self.data = data

    def pages(self) -> Mapping[str, Handler]:
        return {
            "sample": self.sample,
            "thumb": self.thumb,
            "frames": self.frames,
            "view": self.view,
            "masks": self.masks,
        }

    def sample(self, query: Query) -> Page:
        place = place_in(query)
        sample = self.data.sample(place)
        next(self.data.frames(place, [0]))  # a damaged frame is an error of the page, not a missing picture
        page = Page(sample["sample_id"])
        number = self.data.number_of(place)
        others = {"Previous sample": number - 1, "Next sample": number + 1}
        in_set = {text: at for text, at in others.items() if 0 <= at < len(self.data.store.samples)}
        page.mark(links({text: address("sample", **self.data.place_of(at)._asdict()) for text, at in in_set.items()}))
        with page.arranged("first"):
            with page.together():
                page.table(["", ""], list(self._facts(sample, place).items()))
            with page.together():
                shown = len(self.data.chosen_frames(sample))
                page.mark(self._film("frames", f"{shown} of {count(sample['num_frames'], 'stored frame')}", place))
        for at, folder in enumerate(self.data.set_folders):
            page.heading(f"Token set {folder.name}")
            with page.arranged("films"):
                for view in range(self.data.token_set(at).manifest.views.num_views):
                    page.mark(self._view_mark(place, at, view))
        if self.data.set_folders:
            page.heading("Masks")
            self._mask_form(page, place, sample)
        return page

    def thumb(self, query: Query) -> bytes:
        """The middle frame as a small square."""
        place = place_in(query)
        frame = next(self.data.frames(place, [self.data.sample(place)["num_frames"] // 2]))
        square = ImageOps.fit(Image.fromarray(frame), (THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC)
        return webp([np.asarray(square)])

    def frames(self, query: Query) -> bytes:
        """A film of the stored frames."""
        place = place_in(query)
        frames = self.data.frames(place, self.data.chosen_frames(self.data.sample(place)))
        return _played([_scaled(frame) for frame in frames], query)

    def view(self, query: Query) -> bytes:
        """A film of the frames with a view's crop, the view, and its tokens decoded."""
        place, (number, view) = place_in(query), self._set_and_view(query)
        positions = self.data.chosen_frames(self.data.sample(place))
        found = self.data.view(place, number, view, positions)
        columns = [
            [_scaled(_boxed(frame, found.view)) for frame in self.data.frames(place, positions)],
            [enlarged(frame, PANEL_PX) for frame in found.clip_THWC],
        ]
        decoder = self.data.decoder(number)
        if decoder is not None:
            import torch

            decoded = decoder.decode(torch.from_numpy(found.tokens_Thw.astype(np.int64))).cpu().numpy()
            columns.append([enlarged(frame, PANEL_PX) for frame in decoded])
        return _played([side_by_side(panels) for panels in zip(*columns, strict=True)], query)

    def masks(self, query: Query) -> Html:
        """A clip from the sample's start, with the positions of a mask hidden."""
        from bevt_core.masking import STRATEGIES, draw_mask  # imports torch

        place, (number, view) = place_in(query), self._set_and_view(query)
        kind = query.choice("kind", STRATEGIES, "tube")
        percent = query.integer("ratio", 1, 99, RATIO_PERCENT)
        frames = self.data.sample(place)["num_frames"]
        clip = list(range(min(frames, MASKED_FRAMES) // TUBELET * TUBELET)) or [0]
        found = self.data.view(place, number, view, clip)
        grid_THW = (max(1, len(clip) // TUBELET), *found.tokens_Thw.shape[1:])
        positions = grid_THW[1] * grid_THW[2]
        block = query.integer("min_block", 1, positions, min(MIN_BLOCK, positions))
        seed = query.integer("seed", 0, MAX_SEED, 0)
        config = STRATEGIES[kind](percent / 100, block)
        mask_THW = draw_mask(config, rng_for("viz", seed, kind), grid_THW, found.clip_THWC)
        side_px = math.lcm(*grid_THW[1:]) * -(-MASKED_PX // math.lcm(*grid_THW[1:]))  # a multiple of the grid
        large_THWC = np.stack([enlarged(frame, side_px) for frame in found.clip_THWC])
        masked = hide(large_THWC, mask_THW)
        tubelets = f"{grid_THW[0]} tubelets of {TUBELET} frames" if len(clip) > 1 else "one frame"
        caption = f"{kind}: {mask_THW.mean():.1%} of {mask_THW.size:,} positions hidden; {tubelets}"
        return cells([webp([frame]) for frame in masked], caption)

    def _set_and_view(self, query: Query) -> tuple[int, int]:
        """A token set's number and a view. Raises BadRequest, NoSuchPage."""
        number, view = query.integer("set", 0, MAX_SETS), query.integer("view", 0, MAX_VIEWS)
        if number >= len(self.data.set_folders) or view >= self.data.token_set(number).manifest.views.num_views:
            raise NoSuchPage(f"There is no view {view} in token set {number} of {self.data.path}.")
        return number, view

    def _facts(self, sample: Mapping[str, Any], place: Place) -> dict[str, object]:
        times = sample["times_s"]
        facts = {
            "class": self.data.class_name(sample["label"]),
            "source": sample["source"],
            "stored size": f"{sample['width']} x {sample['height']} px",
            "frames": f"{sample['num_frames']:,}",
            "time in the source": f"{times[0]:.2f} to {times[-1]:.2f} s" if len(times) else "unknown",
            "decoder": f"{sample['decoder']} {sample['decoder_version']}",
            "stored in": f"part {place.part}, row {place.row}",
        }
        return facts | ({"warnings": "; ".join(sample["warnings"])} if sample["warnings"] else {})

    def _view_mark(self, place: Place, number: int, view: int) -> Html:
        geometry = self.data.stored_views(place.part, number, view).views[place.row]
        caption = f"View {view}: {_described(geometry)}. Frame with the crop | view"
        decoder = self.data.decoder(number)
        caption += "; tokens are not decoded: the tokenizer was not found" if decoder is None else " | tokens decoded"
        return self._film("view", caption, place, set=number, view=view)

    def _film(self, page: str, caption: str, place: Place, **parameters: int) -> Html:
        parameters |= place._asdict()
        moving, still = address(page, **parameters), address(page, **parameters, still=1)
        return film(moving, still, caption, caption)

    def _mask_form(self, page: Page, place: Place, sample: Mapping[str, Any]) -> None:
        """The sliders, for the first token set."""
        from bevt_core.masking import STRATEGIES  # imports torch

        manifest = self.data.token_set(0).manifest
        rows, columns = manifest.tokenizer.grid
        views = {str(view): f"view {view}" for view in range(manifest.views.num_views)}
        largest = max(1, rows * columns // 2)
        fields = [
            *(hidden(name, value) for name, value in {**place._asdict(), "set": 0}.items()),
            choose("Mask", "kind", {kind: kind.replace("_", " ") for kind in STRATEGIES}, "tube"),
            choose("View", "view", views, "0"),
            slider("Hidden", "ratio", 5, 95, RATIO_PERCENT, step=5, unit=" %"),
            slider("Smallest block", "min_block", 1, largest, min(MIN_BLOCK, largest)),
            slider("Seed", "seed", 0, MAX_SEED, 0),
        ]
        first = Query("&".join(f"{name}={value}" for name, value in {**place._asdict(), "set": 0, "view": 0}.items()))
        page.mark(live_form("masks", fields, self.masks(first)))
        page.text(
            f"The masks of pretraining over the {rows} x {columns} tokens of a frame. Hidden is the share of the "
            "frames that a tube covers, and for the other masks of the whole clip. The smallest block, in tokens, "
            "counts for tube and block.",
            "quiet",
        )


def _played(frames: list[np.ndarray], query: Query) -> bytes:
    """All frames as an animation, or, with `still` in the query, the middle one."""
    return webp(frames[len(frames) // 2 :][:1] if query.integer("still", 0, 1, 0) else frames)


def _scaled(frame_HWC: np.ndarray) -> np.ndarray:
    """Scale a frame to a height of PANEL_PX, and to at most 3 times that width."""
    height, width = frame_HWC.shape[:2]
    size = (min(max(1, round(width * PANEL_PX / height)), 3 * PANEL_PX), PANEL_PX)
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BICUBIC))


def _boxed(frame_HWC: np.ndarray, view: View) -> np.ndarray:
    """Draw a view's crop on its frame."""
    image = Image.fromarray(frame_HWC)
    left, top, right, bottom = box_of(view, *frame_HWC.shape[:2])
    thickness = max(2, len(frame_HWC) // 64)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=MARK, width=thickness)
    return np.asarray(image)


def _described(view: View) -> str:
    parts = [f"scaled to a short side of {view.short_side_px} px, {view.crop_px} px at ({view.left_px}, {view.top_px})"]
    parts += ["flipped"] if view.flip else []
    parts += [f"{operation} x{factor:.2f}" for operation, factor in view.jitter]
    return ", ".join(parts)
