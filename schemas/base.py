"""The base class of records: frozen, strict about unknown keys, with a canonical JSON form and a digest."""

import hashlib
import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

FORMAT_VERSION: Final = 1
# name of a folder, such as a token set's
PLAIN_NAME = r"\w[\w.-]*"
PlainName = Annotated[str, StringConstraints(pattern=rf"^{PLAIN_NAME}$", max_length=200)]


class Record(BaseModel):
    """A frozen model. Unknown keys, NaN and infinity are errors; `digest()` is stable across processes and machines."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """The text that `digest` hashes: JSON with sorted keys and no spaces, without fields that have their default.

        So a field that is added later with a default changes no existing digest. A default must never change.
        """
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True))

    def digest(self) -> str:
        """SHA-256 of `canonical_json`, in hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def differing_fields(old: Record, new: Record, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Both values of every field in which two records of one type differ, by dotted name."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in type(old).model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if isinstance(before, Record) and isinstance(after, Record):
            found |= differing_fields(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = (before, after)
    return found
