"""The keys that commands print with `--json`, compared with tests/golden/json-keys.json. Values are not compared."""

import json
import os
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "golden" / "json-keys.json"
RECORD_TO = "BEVT_RECORD_JSON_KEYS"  # a file that gets a line per check, instead of the comparison
CheckKeys = Callable[[str, Mapping[str, Any]], None]  # the fixture `json_keys`
UPDATE = "python -m tests.golden.surfaces --write"

# maps whose keys are data, by command: reasons, class names, paths of runs, dtypes that a machine has, ...
BY_DATA = {
    "bench attention": {"totals_ms"},
    "bench store": {"token_sets"},
    "doctor": {"findings"},
    "finetune --dry-run --assume": {"assumed"},
    "inspect": {"frames.rejected", "token_sets"},
    "model info -- MODEL": {"origin"},
    "model list": {"models[].origin"},
    "plan": {"assumptions"},
    "runs compare": {"curves", "curves.*", "different", "different.*", "last", "results"},
    "runs show": {"datasets"},
    "scan": {"class_counts.largest", "class_counts.smallest", "codecs", "ignored", "sizes", "unreadable"},
    "tokenize": {"ignored", "rejected_by_reason"},
    "tokenizer compare": {
        f"{side}.{key}"
        for side in ("a", "b", "others[]")
        for key in ("frames_per_s", "codes_per_s", "ids_kept_in_dtype")
    }
    | {"dtypes_left_out"},
    "train --dry-run": {"global_batch", "samples_seen"},
    "tune": {"global_batch"},
}


def key_paths(value: Any, by_data: Set[str] = frozenset(), path: str = "") -> set[str]:
    """The paths of all keys in `value`: `a.b` of nested maps, `a[].b` of maps in lists, `a.*` for `by_data`."""
    own = {path} if path else set()
    if isinstance(value, Mapping):
        start = f"{path}." if path else ""
        named = [(f"{start}{'*' if path in by_data else key}", inner) for key, inner in value.items()]
        return own.union(*(key_paths(inner, by_data, name) for name, inner in named))
    if isinstance(value, list | tuple):
        maps = [inner for inner in value if isinstance(inner, Mapping)]
        return own.union(*(key_paths(inner, by_data, f"{path}[]") - {f"{path}[]"} for inner in maps))
    return own


def check_json_keys(command: str, summary: Mapping[str, Any]) -> None:
    """Compare the keys of what `command` prints with the pinned ones. `command` may name a case: `train --dry-run`."""
    found = sorted(key_paths(summary, BY_DATA.get(command, frozenset())))
    record_to = os.environ.get(RECORD_TO)
    if record_to is not None:
        with Path(record_to).open("a") as file:
            file.write(json.dumps([command, found]) + "\n")
        return
    pinned = json.loads(FILE.read_text()).get(command, [])
    missing, new = sorted({*pinned} - {*found}), sorted({*found} - {*pinned})
    assert not missing, f"bevt {command} --json: keys {missing} are gone, but scripts may read them"
    assert not new, f"bevt {command} --json: keys {new} are new; add them by `{UPDATE}`"
