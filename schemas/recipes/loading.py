"""Load recipes: complete YAML files, or changes to another recipe (`base:`), with overrides (`--set a.b=c`).

The error for a misspelt key names the key and the nearest valid one.
"""

import contextlib
import difflib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, PretrainRecipe, TokenizeRecipe, TokenizerRecipe
from schemas.text.credentials import holds_credentials, masked
from schemas.text.plain import shown
from schemas.text.validation import describe, numbers_of
from schemas.text.yaml_text import read_yaml_file, yaml_value

TrainingRecipe = PretrainRecipe | FinetuneRecipe | TokenizerRecipe
Recipe = TokenizeRecipe | TrainingRecipe
R = TypeVar("R", TokenizeRecipe, PretrainRecipe, FinetuneRecipe, TokenizerRecipe)
KINDS: dict[str, type[Recipe]] = {
    "tokenize": TokenizeRecipe,
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "tokenizer": TokenizerRecipe,
}
MAX_BASES = 10  # longest chain of `base`
MAX_NAMES, MAX_CHARACTERS = 100, 300  # in a message
COMMANDS = {  # kind of a recipe -> the command that takes it
    "tokenize": "bevt tokenize",
    "pretrain": "bevt train",
    "finetune": "bevt finetune",
    "tokenizer": "bevt tokenizer train",
}


def load_recipe(name: str, directory: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load the recipe `name` (a file below `directory` without its `.yaml`, or a path) and apply `a.b=c` overrides.

    Raises UserError for an unknown recipe, key or value, with the nearest valid name.
    """
    return _overridden(_read(name, directory, seen=()), name, overrides)


def load_recipe_of(kind: type[R], name: str, directory: Path, overrides: Sequence[str] = ()) -> R:
    """`load_recipe`, for a command that needs one kind; another kind is a UserError that names its command."""
    wanted = next(key for key, model in KINDS.items() if model is kind)
    try:
        data = _read(name, directory, seen=())
    except UserError:
        _explain_unknown(name, directory, wanted)
        raise
    _check_recipe_kind(name, data.get("kind"), wanted)
    recipe = _overridden(data, name, overrides)
    _check_recipe_kind(name, recipe.kind, wanted)
    assert isinstance(recipe, kind)
    return recipe


def _overridden(data: dict[str, Any], name: str, overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        _override(data, override, name)
    return parse_recipe(data, where=name)


def _check_recipe_kind(name: str, found: Any, wanted: str) -> None:
    """Raise UserError for a recipe of another known kind."""
    if found != wanted and isinstance(found, str) and found in COMMANDS:
        raise UserError(f"recipe {name!r} is for `{COMMANDS[found]}` (kind: {found}); give one of kind {wanted!r}")


def _explain_unknown(name: str, directory: Path, wanted: str) -> None:
    """Raise UserError if `name`, which is unknown in `directory`, is another command's recipe or a folder."""
    with contextlib.suppress(OSError):
        for others in directory.parent.parent.glob("*/recipes"):
            if (others / f"{name}.yaml").is_file():
                _check_recipe_kind(name, _read(name, others, seen=()).get("kind"), wanted)
        if Path(name).is_dir():
            here = Path(name) / "recipe.yaml"
            raise UserError(f"recipe {name!r} is a folder; give {here if here.is_file() else 'a .yaml file'}")


def parse_recipe(data: Any, where: str) -> Recipe:
    """Validate the complete recipe `data`; `where` names it in error messages.

    Raises UserError for an invalid recipe, and for one with credentials, since recipes are stored with the results.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping of keys to values, found {type(data).__name__}")
    _check_credentials(data, where, "")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(kind, list(KINDS)) if isinstance(kind, str) else ""
        raise UserError(f"{where}: kind is {shown(kind)}; {hint}expected one of {', '.join(KINDS)}")
    _check_keys(KINDS[kind], data, where, "", list(_paths(KINDS[kind], data, "")))
    try:
        return KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error, KINDS[kind])}") from None


def _check_credentials(value: Any, where: str, key: str) -> None:
    if isinstance(value, str) and holds_credentials(value):
        raise UserError(
            f"{where}: {key} is {masked(value)!r}, with credentials that would be recorded; leave them out, and set "
            "environment variables such as AWS_ACCESS_KEY_ID, AWS_PROFILE or WANDB_API_KEY"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _check_credentials(item, where, f"{key}.{name}".removeprefix("."))


def streams_in(name: str, directory: Path) -> list[str]:
    """Return the names of the streams in the recipe `name`, before any override."""
    streams = _read(name, directory, seen=()).get("streams")
    return list(streams) if isinstance(streams, dict) else []


def recipe_names(directory: Path) -> list[str]:
    """Return the names of the recipes in `directory` and its folders, such as `ablations/table9_random_3d`."""
    found = (path for pattern in ("*.yaml", "*/*.yaml") for path in directory.glob(pattern))
    return sorted(path.relative_to(directory).with_suffix("").as_posix() for path in found)


def to_yaml(recipe: BaseModel) -> str:
    """The resolved recipe as YAML, in the order of its fields."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _read(name: str, directory: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else directory / f"{name}.yaml"
    if not _is_file(path):
        if _is_file(path, Path.exists):
            raise UserError(f"recipe {path}: a folder, device or pipe, expected a .yaml file")
        known = recipe_names(directory)[:MAX_NAMES]
        raise UserError(
            f"no recipe {name[:MAX_CHARACTERS]!r}; {nearest(name, known)}known: {', '.join(known)}, or the path of a "
            ".yaml file"
        )
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path}: `base` leads back to itself")
    if len(seen) > MAX_BASES:
        raise UserError(f"{path}: more than {MAX_BASES} recipes in a chain of `base`; merge some of them")
    try:
        data = read_yaml_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {shown(base)}, expected a recipe's name or path")
    return _merge(_read(base, path.parent, (*seen, path)), data)


def _is_file(path: Path, check: Callable[[Path], bool] = Path.is_file) -> bool:
    try:
        return check(path)
    except OSError:  # no permission for the folder, or an impossible file name
        return False


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`, mappings key by key. A mapping of another `kind` replaces, as its keys differ."""
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _override(data: dict[str, Any], override: str, where: str) -> None:
    """Apply `a.b=c` in place; the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override!r}: expected KEY=VALUE with dots between keys, such as optim.lr=3e-4")
    *parents, last = path.split(".")
    target = data
    for key in parents:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: {key!r} in {where} is a value, not a group of keys")
    target[last] = yaml_value(text, f"--set {override}")
    glued = [key for key in target[last] if ":" in str(key)] if isinstance(target[last], dict) else []
    if glued:
        raise UserError(f"--set {override}: {glued[0]!r} is one word; YAML needs a space after a colon: {{a: b}}")


def _check_keys(model: type[BaseModel], data: dict[str, Any], where: str, prefix: str, paths: Sequence[str]) -> None:
    """Raise UserError for the first unknown key, naming the group that has such a key, or the nearest key here."""
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            known = list(model.model_fields)
            hint = _in_other_groups(key, value, paths) or nearest(key, known)
            raise UserError(f"{where}: unknown key {shown(prefix + key)}; {hint}known here: {', '.join(known)}")
        if (numbers := numbers_of(field)) and any(isinstance(item, bool) for item in _items(value)):
            raise UserError(f"{where}: {prefix}{key}: expected {numbers} (given {shown(value)})")
        if isinstance(value, dict):
            for inner, item, inner_prefix in _models_in(field.annotation, value, f"{prefix}{key}."):
                _check_keys(inner, item, where, inner_prefix, paths)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _paths(model: type[BaseModel], data: dict[str, Any], prefix: str) -> Iterator[str]:
    """The dotted names of all keys allowed in a recipe with the structure of `data`."""
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        if isinstance(data.get(key), dict):
            for inner, item, inner_prefix in _models_in(field.annotation, data[key], f"{prefix}{key}."):
                yield from _paths(inner, item, inner_prefix)


def _in_other_groups(key: str, value: Any, paths: Sequence[str]) -> str:
    """`did you mean 'a.b'? ` for a key of another group; with an unknown `a` in `--set a.b=c`, `b` is looked up."""
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
    found = [path for path in paths if path.rpartition(".")[2] == key]
    return f"did you mean {' or '.join(map(repr, found))}? " if found else ""


def _models_in(
    annotation: Any, value: dict[str, Any], prefix: str
) -> list[tuple[type[BaseModel], dict[str, Any], str]]:
    """The (model, mapping, prefix) triples in `value`, for a model, a union (chosen by `kind`) or a dict of models."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _models_in(arguments[0], value, prefix)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, value, prefix)]
    if origin in (typing.Union, types.UnionType):
        models = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
        chosen = [m for m in models if _kind_of(m) == value.get("kind")] or models[:1]
        return [(m, value, prefix) for m in chosen[:1]]
    if origin is dict:
        items = [(key, item) for key, item in value.items() if isinstance(item, dict)]
        return [triple for key, item in items for triple in _models_in(arguments[1], item, f"{prefix}{key}.")]
    return []


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation)[0] if field else None


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean 'x'? `, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""
