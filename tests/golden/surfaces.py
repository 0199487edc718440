"""What users and their scripts rely on, as data: options of commands, keys of recipes and of `--json`.

`python -m tests.golden.surfaces --write` adds what is new to cli-flags.json, recipe-keys.json and json-keys.json. It
refuses to drop or change what is pinned; `--rewrite` does that too, for a change that CHANGELOG.md announces. Names of
files after it, such as `cli-flags`, restrict it to these; json-keys runs tests, and takes minutes.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import cli
from pipeline.recipes import PIPELINE_RECIPES
from schemas.recipes.loading import KINDS, load_recipe, recipe_names
from tests.support.json_keys import RECORD_TO
from trainer.recipes import TRAINER_RECIPES
from website.reference.recipe_keys import models_in

HERE = Path(__file__).parent
Surface = dict[str, Any]


def commands() -> dict[str, Any]:
    """Every command of `bevt`, as `tokenize` or `runs list`, with its click command."""
    found = {}
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {each}": inner[each] for each in inner}
    return found


def cli_flags() -> Surface:
    """Command -> option or argument -> its type and default."""
    surface = {}
    for name, command in commands().items():
        hints = typing.get_type_hints(inspect.unwrap(command.callback))
        surface[name] = {
            " ".join([*each.opts, *each.secondary_opts]): _described(hints[each.name], each.required, each.default)
            for each in command.params
            if each.name != "help"
        }
    return surface


def recipe_keys() -> Surface:
    """`models`: kind of recipe -> key -> its type and default. `shipped`: digest of every shipped recipe."""
    folders = {"pipeline": PIPELINE_RECIPES, "trainer": TRAINER_RECIPES}
    return {
        "models": {kind: dict(_keys_of(model)) for kind, model in KINDS.items()},
        "shipped": {
            f"{package}: {name}": load_recipe(name, folder).digest()
            for package, folder in folders.items()
            for name in recipe_names(folder)
        },
    }


def json_keys() -> Surface:
    """Command -> paths of the keys that it prints with --json, by running the tests that check them."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "keys.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "json_keys", "-p", "no:cacheprovider"]
        subprocess.run(command, env={**os.environ, RECORD_TO: str(record)}, check=True, cwd=HERE.parents[1])
        found: dict[str, set[str]] = {}
        for line in record.read_text().splitlines():
            name, keys = json.loads(line)
            found.setdefault(name, set()).update(keys)
    return {name: sorted(keys) for name, keys in sorted(found.items())}


SURFACES: dict[str, Callable[[], Surface]] = {
    "cli-flags": cli_flags,
    "recipe-keys": recipe_keys,
    "json-keys": json_keys,
}


def pinned(name: str) -> Surface:
    """What the file of surface `name` has; nothing before it was first written."""
    path = HERE / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def differences(before: Any, now: Any, at: str = "") -> tuple[list[str], list[str]]:
    """What of `before` is gone or changed in `now`, and what is new; both by path."""
    broken, new = [], []
    if isinstance(before, list) and isinstance(now, list):
        before, now = (dict.fromkeys(value) for value in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return ([], []) if before == now else ([f"{at}: was {before!r}, is {now!r}"], [])
    for key in (*before, *(key for key in now if key not in before)):
        here = f"{at}: {key}" if at else key
        if key not in now:
            broken.append(f"{here}: gone")
        elif key not in before:
            new.append(here)
        else:
            inner = differences(before[key], now[key], here)
            broken += inner[0]
            new += inner[1]
    return broken, new


def _described(hint: Any, required: bool, default: Any) -> str:
    value = str(default) if isinstance(default, Path) else default
    return f"{type_name(hint)}, required" if required else f"{type_name(hint)} = {value!r}"


def type_name(hint: Any) -> str:
    """A type as it is written in Python, the same in every version of it; a model is an `object`, whatever its name."""
    arguments = ", ".join(map(type_name, typing.get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "object"
    if typing.get_origin(hint) is typing.Annotated:
        return type_name(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return f"Literal[{', '.join(map(repr, typing.get_args(hint)))}]"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join(dict.fromkeys(map(type_name, typing.get_args(hint))))
    if hint is None or hint is types.NoneType:
        return "None"
    if hint is Ellipsis:
        return "..."
    if typing.get_origin(hint) is not None:
        return f"{typing.get_origin(hint).__name__}[{arguments}]"
    return str(getattr(hint, "__name__", hint))


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", _described(field.annotation, field.is_required(), _default(field))
        inner, within = models_in(field.annotation)
        for each in inner:
            kind = f"({typing.get_args(each.model_fields['kind'].annotation)[0]})" if len(inner) > 1 else ""
            yield from _keys_of(each, f"{prefix}{name}{within}{kind}.")


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="add what is new")
    action.add_argument("--rewrite", action="store_true", help="drop and change what is pinned as well")
    parser.add_argument("files", nargs="*", default=[], help=f"of {', '.join(SURFACES)}; default: all")
    options = parser.parse_args()
    refused = False
    for name in options.files or SURFACES:
        now = SURFACES[name]()
        broken, new = differences(pinned(name), now)
        for line in broken:
            print(f"{name}.json: {line}")
        for line in new:
            print(f"{name}.json: {line}: new")
        if broken and not options.rewrite:
            refused = True
        else:
            (HERE / f"{name}.json").write_text(json.dumps(now, indent=1) + "\n")
    if refused:
        sys.exit("not written: users rely on what is gone or changed; if it must be, use --rewrite and CHANGELOG.md")


if __name__ == "__main__":
    main()
