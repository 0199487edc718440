"""The base of every record: frozen, strict about unknown keys, and with one canonical JSON form and digest."""

import hashlib
import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

FORMAT_VERSION: Final = 1
PlainName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$", max_length=200)]  # of one folder: a token set


class Record(BaseModel):
    """A frozen fact. Unknown keys, NaN and infinity are errors; `digest()` is stable across processes and machines."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """Sorted keys, no spaces, defaults left out: the bytes that are hashed.

        So a field that is added later with a default changes no digest that exists; a default itself may never change.
        """
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True))

    def digest(self) -> str:
        """sha256 of `canonical_json`, in hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
