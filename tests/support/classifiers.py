"""A classifier small enough for tests: its sizes and its card."""

from schemas.evaluation import ClassifierCard
from schemas.recipes import ClipSampling, EvalViews

SIZES = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "window": (2, 2, 2), "patch": (2, 8, 8)}


CARD = ClassifierCard(
    title="test",
    classes=("no", "yes"),
    sampling=ClipSampling(kind="dense", frames=4, interval=1),
    crop_px=32,
    views=EvalViews(clips=2, crops=3, short_side_px=32),
)
