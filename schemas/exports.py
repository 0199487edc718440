"""Records of `bevt export-data`: a dataset written in another project's format, part by part."""

from typing import Literal

from schemas.base import FORMAT_VERSION, PlainName, Record
from schemas.frames import FileDigest
from schemas.ranges import Count
from schemas.tokens import TokenizerIdentity
from schemas.views import ViewSpec

ExportFormat = Literal["webdataset", "lance"]


class ExportedTokens(Record):
    """A token set in an export: what made it, and its digest."""

    set_digest: str
    tokenizer: TokenizerIdentity
    views: ViewSpec


class ExportPlan(Record):
    """`export-plan.json`, written first, so that an export of other data into the same folder is refused."""

    format_version: Literal[1] = FORMAT_VERSION
    to: ExportFormat
    frames_digest: str  # of the frame store
    token_sets: dict[PlainName, ExportedTokens]


class ExportCommit(Record):
    """`commits/part-00000.json`: the part is exported, and its files were read back, if it exists and matches."""

    part: Count
    num_samples: Count
    num_frames: Count
    plan_digest: str
    files: dict[str, FileDigest]  # by path relative to the export's folder
    fragments: tuple[str, ...] = ()  # lance: metadata of the part's fragments, as JSON


class ExportManifest(Record):
    """`export.json`, written last: the export is complete if it exists."""

    format_version: Literal[1] = FORMAT_VERSION
    plan: ExportPlan
    classes: tuple[str, ...]  # in the order of the labels
    num_parts: Count
    num_samples: Count
    num_frames: Count
    num_bytes: Count
    parts_digest: str  # sha256 over the digests of the commits, in order
