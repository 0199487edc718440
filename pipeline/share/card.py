"""The README.md of a dataset on the Hugging Face Hub: which tables `datasets.load_dataset` reads, and how to get it."""

import re
from collections.abc import Collection, Iterable

from pipeline.share.sets import FRAMES, MANIFEST, TOKENS
from schemas.base import PLAIN_NAME

README = "README.md"
_SET = re.compile(rf"(?:{FRAMES}|{TOKENS}/{PLAIN_NAME})/{re.escape(MANIFEST)}")
TEXT = """\
# A dataset of bevt

{what}. `bevt pull ORG/NAME datasets/mine` downloads it and checks every digest;
`docs/reference/format.md` of bevt describes the files.

Frames and tokens are derived from the source data, whose terms decide how they may be used. Add a `license:` line at
the top of this file.
"""


def sets_in(paths: Iterable[str]) -> list[str]:
    """Return the finished sets among a repository's paths: "frames" first, then "tokens/NAME" in order."""
    return sorted(path.removesuffix(f"/{MANIFEST}") for path in paths if _SET.fullmatch(path))


def card(sets: Collection[str]) -> str:
    """Return the card of a dataset with these sets."""
    tables = [(name.replace("/", "-"), f"{name}/*.parquet") for name in sorted(sets) if name != FRAMES]
    if FRAMES in sets:
        tables.append(("frames-index", f"{FRAMES}/part-*/index.parquet"))
    configs = "".join(f"- config_name: {name}\n  data_files: {files}\n" for name, files in tables)
    what = "Stored frames of videos or images, and tokens of them" if FRAMES in sets else "Tokens of video frames"
    header = f"---\nlibrary_name: bevt\ntags:\n- bevt\nconfigs:\n{configs}---\n\n"
    return header + TEXT.format(what=what)
