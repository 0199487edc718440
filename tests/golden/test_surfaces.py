"""Options, recipe keys and JSON keys that users rely on still exist, and new ones are pinned."""

import pytest

from tests.golden.surfaces import SURFACES, commands, differences, pinned
from tests.support.json_keys import UPDATE, key_paths


@pytest.mark.parametrize("name", ["cli-flags", "recipe-keys"])
def test_what_users_rely_on_still_exists(name: str) -> None:
    broken, new = differences(pinned(name), SURFACES[name]())
    assert not broken, f"{name}.json: users rely on what is gone or changed"
    assert not new, f"not in {name}.json yet: `{UPDATE} {name}`"


def test_the_keys_of_every_command_are_pinned() -> None:
    """A case of a command has its flag behind it: `train --dry-run`."""
    assert {name.partition(" --")[0] for name in pinned("json-keys")} == {*commands()}


def test_removed_and_changed_options_differ_from_new_ones() -> None:
    before = {"train": {"--out": "Path", "--tflops": "float = 100.0"}, "scan": {}}
    now = {"train": {"--out": "Path", "--tflops": "float = 50.0", "--seed": "int"}}
    assert differences(before, now) == (
        ["train: --tflops: was 'float = 100.0', is 'float = 50.0'", "scan: gone"],
        ["train: --seed"],
    )
    assert differences(["a", "b"], ["b", "c"], "x") == (["x: a: gone"], ["x: c"])


def test_paths_of_keys() -> None:
    summary = {"runs": [{"run": 1}, {"error": "x"}], "codecs": {"h264": {"n": 3}}, "size": {"min": 1}, "shape": [1, 2]}
    paths = "runs runs[].run runs[].error codecs codecs.* codecs.*.n size size.min shape"
    assert key_paths(summary, {"codecs"}) == {*paths.split()}
