"""The keys that commands print with `--json`, from the file that pins them."""

import json
from pathlib import Path

from website.reference.tables import code, table

PINNED = Path(__file__).parents[2] / "tests" / "golden" / "json-keys.json"


def markdown() -> str:
    """A section per command, or case of a command, with the keys of its object."""
    return "\n".join(section(name, keys) for name, keys in json.loads(PINNED.read_text()).items())


def section(name: str, keys: list[str]) -> str:
    """The keys of one command: those at the top, and a row for each that has keys within it."""
    inside: dict[str, list[str]] = {}
    for key in keys:
        top = key.split(".")[0].removesuffix("[]")
        inside.setdefault(top, []).extend([key] if key != top else [])
    plain = ", ".join(code(top) for top, inner in inside.items() if not inner)
    rows = [(code(top), ", ".join(map(code, inner))) for top, inner in inside.items() if inner]
    within = table(["key", "keys within it"], rows) if rows else ""
    return f"## bevt {name}\n\n{plain}\n\n{within}"
