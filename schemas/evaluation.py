"""What a fine-tuned model is for, and what its evaluation wrote."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.base import FORMAT_VERSION, Record
from schemas.frames import ClassNames
from schemas.ranges import CropPixels, Seed
from schemas.recipes import ClipSampling, EvalViews, Precision

Temporal = Literal["normal", "single-frame", "shuffle"]  # what the model gets to see of the order (paper, Table 2)


FeatureLevel = Literal["pooled", "frames", "stages", "positions"]


class ClassifierCard(Record):
    """`classifier.json` beside the weights: which classes the head names, and which clips it was trained on."""

    format_version: Literal[1] = FORMAT_VERSION
    title: str
    classes: ClassNames  # names by label
    sampling: ClipSampling
    crop_px: CropPixels
    views: EvalViews


class EvaluationPlan(Record):
    """What decides the scores of an evaluation; parts of another plan are not mixed in."""

    format_version: Literal[1] = FORMAT_VERSION
    weights_sha256: str
    data_digest: str
    sampling: ClipSampling
    crop_px: CropPixels
    views: EvalViews
    temporal: Temporal
    seed: Seed
    # left out where it is fp32, as records made before have no such key
    precision: Precision = Field(default="fp32", exclude_if=lambda precision: precision == "fp32")


class ExtractionPlan(Record):
    """What decides the features in a file; `<file>.json` beside it."""

    format_version: Literal[1] = FORMAT_VERSION
    weights_sha256: str
    data_digest: str
    sampling: ClipSampling
    crop_px: CropPixels
    views: EvalViews
    level: FeatureLevel
    precision: Precision = Field(default="fp32", exclude_if=lambda precision: precision == "fp32")  # as above


SCORES_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("prediction", pa.int32()),  # null, like the next two, where the video could not be read
        pa.field("rank", pa.int32()),  # how many classes scored higher than the true one
        pa.field("scores", pa.list_(pa.float32())),  # softmax by class, mean over views
        pa.field("error", pa.string()),
    ]
)

FEATURES_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field(
            "features", pa.list_(pa.list_(pa.float32()))
        ),  # one vector, or one per frame, stage or position, mean over views
        pa.field("error", pa.string()),
    ]
)
