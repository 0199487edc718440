"""JSON files that commands of bevt write, and others may have changed."""

from typing import Any

from bevt_core.storage.files import read_bounded
from bevt_core.storage.objects import AnyPath
from schemas.text.json_text import MAX_BYTES, parse_json
from schemas.text.plain import text_of


def read_json_file(path: AnyPath, kind: type) -> Any:
    """What a JSON file holds, which is a `kind`: list or dict. Raises UserError for all else, and OSError."""
    return parse_json(text_of(read_bounded(path, MAX_BYTES), path), kind, path)
