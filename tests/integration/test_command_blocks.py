"""Every command and Python block of the pages is run by a test or says why not, and names only what exists."""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from bevt_core.known_sets import KNOWN_SETS
from pipeline.recipes import PIPELINE_RECIPES
from pipeline.sources import SOURCES
from schemas.recipes.loading import recipe_names
from tests.golden.surfaces import pinned
from tests.support.blocks import Block, bevt_arguments, blocks_of, simple_commands
from trainer.commands.pretrain import STAGE_RECIPES
from trainer.recipes import TRAINER_RECIPES
from website.reference import GENERATED

REPO = Path(__file__).parents[2]
DOCS = REPO / "docs"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md"]
PAGES += [page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "adr" and page.name != "log.md"]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
CHOICES = {"dataset": {*SOURCES, *KNOWN_SETS}, "stage": STAGE_RECIPES}  # of arguments that are plain strings
OTHER_SHELLS = {"sh", "shell", "console", "zsh", "shell-session", "py", "pycon", ""}
PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer", "cli")
MARKS = "<!-- run by: tests/... --> or <!-- not run: REASON --> on the line before it"


def at(block: Block) -> str:
    return f"{block.page.relative_to(REPO)}:{block.line}"


def test_every_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) > 40
    scripts = [block for block in BLOCKS if block.language in ("bash", "python")]
    assert not [at(block) for block in BLOCKS if block.language in OTHER_SHELLS], "write bash, python or text"
    assert not [at(block) for block in scripts if block.mark is None], f"has no mark: {MARKS}"


def test_a_test_that_runs_a_block_exists_and_reads_its_page() -> None:
    tests = {at(block): (block, REPO / block.mark[1]) for block in BLOCKS if block.mark and block.mark[0] == "run by"}
    assert not [place for place, (_, test) in tests.items() if not test.is_file()]
    assert not [place for place, (block, test) in tests.items() if block.page.name not in test.read_text()]


@functools.cache
def command_of(names: tuple[str, ...]) -> Any:
    """A command of `bevt` without its callbacks, which may ask the Hub; None if it does not exist."""
    if not names:
        return typer.main.get_command(cli.app)
    group = getattr(command_of(names[:-1]), "commands", {})
    command = group.get(names[-1])
    for parameter in getattr(command, "params", ()):
        if not parameter.is_eager:
            parameter.callback = None
    return command


def problems_of_command(arguments: list[str]) -> list[str]:
    """What is wrong with the arguments of `bevt`: unknown commands, options and values, missing arguments."""
    names: tuple[str, ...] = ()
    rest = list(arguments)
    while hasattr(command_of(names), "commands") and rest and not rest[0].startswith("-"):
        names = (*names, rest.pop(0))
    command = command_of(names)
    if command is None:
        return [f"no command {' '.join(names)}"]
    if hasattr(command, "commands") and not rest:
        return ["names no command"]
    try:
        values = command.make_context("bevt", rest).params
    except (typer.Exit, typer.Abort):
        return []
    except Exception as error:  # noqa: BLE001 # click's errors have another module in every version of Typer
        return [str(error)]
    chosen = {kind: str(values[kind]) for kind in CHOICES if values.get(kind) is not None}
    wrong = [f"no {kind} {name}" for kind, name in chosen.items() if name not in CHOICES[kind] and not is_file(name)]
    return [*wrong, *unknown_recipes(values.get("recipe")), *unknown_keys(values.get("set_"))]


def is_file(name: str) -> bool:
    """Whether a recipe or a mix of data sets is given as a file."""
    return name.endswith(".yaml")


def unknown_recipes(name: str | None) -> list[str]:
    shipped = {*recipe_names(PIPELINE_RECIPES), *recipe_names(TRAINER_RECIPES)}
    return [] if name is None or name in shipped or is_file(name) else [f"no recipe {name}"]


def unknown_keys(overrides: list[str] | None) -> list[str]:
    patterns = {re.sub(r"\(\w+\)", "", key) for keys in pinned("recipe-keys")["models"].values() for key in keys}
    any_key = re.compile("|".join(re.escape(pattern).replace(r"\*", r"[^.]+") for pattern in patterns))
    names = [text.partition("=")[0] for text in overrides or []]
    return [f"no recipe key {name}" for name in names if not any_key.fullmatch(name)]


def test_every_bevt_command_parses() -> None:
    targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    wrong, number = [], 0
    for block in BLOCKS:
        if block.language != "bash":
            continue
        for arguments in bevt_arguments(block.text):
            number += 1
            wrong += [f"{at(block)}: bevt {' '.join(arguments)}: {each}" for each in problems_of_command(arguments)]
        for words in simple_commands(block.text):
            if words[:1] == ["make"]:
                wrong += [f"{at(block)}: no target {word}" for word in words[1:] if word not in targets]
    assert not wrong
    assert number > 40


def test_the_examples_of_help_parse() -> None:
    examples = re.findall(r"```bash\n(.*?)```", GENERATED["commands"](), re.DOTALL)
    typed = [arguments for example in examples for arguments in bevt_arguments(example)]
    wrong = {" ".join(arguments): problems_of_command(arguments) for arguments in typed}
    assert not {command: problems for command, problems in wrong.items() if problems}
    assert len(wrong) > 40


def names_in(module: str) -> set[str] | None:
    """The names that one of our modules has, from its source; None if it does not exist."""
    path = REPO / module.replace(".", "/")
    if path.is_dir():
        public = getattr(importlib.import_module(module), "__all__", ())
        files = {each.stem for each in path.iterdir() if each.is_dir() or each.suffix == ".py"}
        return {*public, *files, *source_names(path / "__init__.py")}
    source = path.with_suffix(".py")
    return source_names(source) if source.is_file() else None


def source_names(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    return names


def problems_of_python(text: str) -> list[str]:
    """Imports from our packages that do not exist, and code that is no Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [str(error)]
    wanted: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            wanted += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            wanted += [(alias.name, "") for alias in node.names]
    wrong = []
    for module, name in wanted:
        if module.partition(".")[0] in PACKAGES:
            found = names_in(module)
            wrong += [f"no {module} {name}"] if found is None or (name and name not in found) else []
    return wrong


def test_python_compiles_and_imports_what_exists() -> None:
    wrong = {at(block): problems_of_python(block.text) for block in BLOCKS if block.language == "python"}
    assert not {place: problems for place, problems in wrong.items() if problems}
    assert len(wrong) > 15


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("bevt tokenise --dataset k400", "no command tokenise"),
        ("bevt runs shew x", "no command runs shew"),
        ("bevt tokenize --dataset k400 --rooot x", "rooot"),
        ("bevt tokenize", "dataset"),
        ("bevt tokenize --dataset k401", "no dataset k401"),
        ("bevt bench step --device cudda", "cudda"),
        ("cd x && bevt tokenize --dataset k400 --recipe laptop_vidoe | tail -1", "no recipe laptop_vidoe"),
        ("A=b torchrun --nproc-per-node 2 --no-python bevt train joint --set optim.lrr=1", "no recipe key optim.lrr"),
        ("srun bash -c 'X=$Y exec bevt train \\\n  --joint'", "--joint"),
        ("bevt train joints", "no stage joints"),
    ],
)
def test_wrong_commands_are_found(script: str, problem: str) -> None:
    (arguments,) = bevt_arguments(script)
    (found,) = problems_of_command(arguments)
    assert problem in found


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("from trainer import predictt", "no trainer predictt"),
        ("import bevt_core.modells", "no bevt_core.modells "),
        ("from bevt_core.masking import tubes", "no bevt_core.masking tubes"),
        ("for x in y", "expected"),
    ],
)
def test_wrong_imports_are_found(code: str, problem: str) -> None:
    (found,) = problems_of_python(code)
    assert problem in found


def test_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n<!-- page not run: needs a GPU -->\n\n```bash\na\n```\n\n- item\n\n"
        "  <!-- run by: tests/x.py -->\n  ```python\n  b\n    c\n  ```\n"
    )
    first, second = blocks_of(page)
    assert (first.language, first.text, first.mark) == ("bash", "a\n", ("not run", "needs a GPU"))
    assert (second.line, second.text, second.mark) == (11, "b\n  c\n", ("run by", "tests/x.py"))
