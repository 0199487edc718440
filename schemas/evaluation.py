"""Records beside weights, `classifier.json` and `pretrained.json`; plans and tables of evaluation and extraction."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.base import FORMAT_VERSION, Record
from schemas.frames import ClassNames
from schemas.ranges import CropPixels, Seed
from schemas.recipes import ClipSampling, EvalViews, Precision

Temporal = Literal["normal", "single-frame", "shuffle"]  # how frame order is changed for the test (paper, Table 2)

FeatureLevel = Literal["pooled", "frames", "stages", "positions"]


class ClassifierCard(Record):
    """`classifier.json` next to the weights: the classes of the head, and the kind of clips it was trained on."""

    format_version: Literal[1] = FORMAT_VERSION
    title: str
    classes: ClassNames  # names by label
    sampling: ClipSampling
    crop_px: CropPixels
    views: EvalViews


class PretrainedCard(Record):
    """`pretrained.json` next to exported weights of a pretraining run: the encoder's clips, and the weights' origin."""

    format_version: Literal[1] = FORMAT_VERSION
    title: str
    sampling: ClipSampling
    crop_px: CropPixels
    trained_on: str  # one line: samples and data set of each stream
    origin: dict[str, str]  # as in the model card: recipe, command, versions, digests of the data


class EvaluationPlan(Record):
    """Everything that determines an evaluation's scores. Partial results of another plan are never reused."""

    format_version: Literal[1] = FORMAT_VERSION
    weights_sha256: str
    data_digest: str
    sampling: ClipSampling
    crop_px: CropPixels
    views: EvalViews
    temporal: Temporal
    seed: Seed
    # written only if not fp32, since older records lack this key
    precision: Precision = Field(default="fp32", exclude_if=lambda precision: precision == "fp32")


class ExtractionPlan(Record):
    """Everything that determines the features in a file; stored next to it as `<file>.json`."""

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
        pa.field("prediction", pa.int32()),  # null, like the next two, if the video could not be read
        pa.field("rank", pa.int32()),  # number of classes that scored higher than the true one
        pa.field("scores", pa.list_(pa.float32())),  # softmax by class, mean over views
        pa.field("error", pa.string()),
    ]
)

FEATURES_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        # one vector, or one per frame, stage or position; mean over views
        pa.field("features", pa.list_(pa.list_(pa.float32()))),
        pa.field("error", pa.string()),
    ]
)
