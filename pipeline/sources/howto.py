"""HowTo100M: long videos without labels, in any layout; a CSV with a `video_id` column can select among them."""

import pyarrow as pa

from bevt_core.dataset.source_list import SourceTable
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.files import read_csv
from pipeline.sources.by_id import MediaIndex
from pipeline.sources.folders import check_split_folder
from pipeline.sources.listing import ListingBuilder, SourceListing, media_files
from pipeline.sources.walk.tree import Tree


def list_howto100m(tree: Tree, split: str, list_file: AnyPath | None) -> SourceListing:
    """List every video below the root, or those named by `--list`, a CSV of the MIL-NCE release; ids may repeat."""
    if list_file is None:
        check_split_folder(tree, split)
        base = split if tree.is_folder(split) else ""
        media = media_files(tree.files(base), "video")
        unlabelled = pa.nulls(len(media.paths), pa.int32())
        return SourceListing(SourceTable.of_kind(media.paths, "video", unlabelled), (), [], media.ignored)
    index = MediaIndex(tree, "")
    builder = ListingBuilder(tree)
    first: dict[str, str] = {}  # id -> its first line, ordered by each id's last line
    for where, row in read_csv(list_file, ["video_id"]):
        first[row["video_id"]] = first.pop(row["video_id"], where)
    for name, where in first.items():
        builder.add(where, index.find([name]), f"{name}.mp4", "video", None)
    return builder.listing(())
