"""Generated reference has every command, recipe key, recipe, JSON key and public name; written pages have the rest."""

import re
from pathlib import Path

import pytest

import bevt_core
import pipeline
import trainer
from bevt_core.console.command_line import INTERRUPTED
from tests.golden.surfaces import pinned
from website.reference import GENERATED

REPO = Path(__file__).parents[2]
REFERENCE = REPO / "docs" / "reference"
MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)
VARIABLE = re.compile(
    r"\b(?:AWS|AZURE|BEVT|CUBLAS|CUDA|GOOGLE|HF|LANCE|LOCAL|MASTER|NCCL|OMP|PYTHON|RAY|TORCH|TRITON|WANDB|WORLD|XDG)"
    r"_[A-Za-z_0-9]*[A-Z0-9a-z]\b"
)
PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")
NO_VARIABLES = {
    "HF_HUB_CACHE",
    "LOCAL_MAGIC",
    "RAY_DEFAULT_LIMIT",
    "RAY_LOGS",
    "RAY_SUBFOLDER",
}  # constants in the code


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return {name: make() for name, make in GENERATED.items()}


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the levels 2 and 3."""
    parts = re.split(r"^###? (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_generated_text_has_a_page() -> None:
    assert sorted(mark for page in REFERENCE.glob("*.md") for mark in MARK.findall(page.read_text())) == [
        *sorted(GENERATED)
    ]


def test_commands(generated: dict[str, str]) -> None:
    shown = sections(generated["commands"])
    for name, flags in pinned("cli-flags").items():
        missing = [
            flag
            for flag in flags
            for part in flag.split()
            if f"<code>{part}</code>" not in _upper(shown[f"bevt {name}"], part)
        ]
        assert not missing, name
        assert "```bash\nbevt " in shown[f"bevt {name}"], f"bevt {name} has no example"


def _upper(text: str, name: str) -> str:
    """Arguments are shown as in help: in capitals."""
    return text if name.startswith("-") else text.replace(f"<code>{name.upper()}</code>", f"<code>{name}</code>")


def test_recipe_keys(generated: dict[str, str]) -> None:
    rows = dict(re.findall(r"^\| <code>([\w.*]+)</code> \|.*\| (.*) \|$", generated["recipe keys"], re.MULTILINE))
    keys = {
        re.sub(r"\(\w+\)", "", key): kind
        for model in pinned("recipe-keys")["models"].values()
        for key, kind in model.items()
    }
    assert not keys.keys() - rows.keys()
    plain = [key for key, kind in keys.items() if "object" not in kind and key.rpartition(".")[2] != "kind"]
    assert not [key for key in plain if not rows[key]], "write a comment beside the field"


def test_recipes_and_json_keys(generated: dict[str, str]) -> None:
    shipped = {name.partition(": ")[2] for name in pinned("recipe-keys")["shipped"]}
    assert shipped == set(re.findall(r'^\?\?\? note "`([^`]+)`', generated["recipes"], re.MULTILINE))
    shown = sections(generated["json keys"])
    for name, keys in pinned("json-keys").items():
        assert not [key for key in keys if f"<code>{key.removesuffix('[]')}</code>" not in shown[f"bevt {name}"]], name


def test_python_names(generated: dict[str, str]) -> None:
    directives = re.findall(r"^::: ([\w.]+)$", generated["python api"], re.MULTILINE)
    assert [each.rpartition(".")[2] for each in directives] == bevt_core.__all__
    assert {*pipeline.__all__, *trainer.__all__} <= {*bevt_core.__all__}
    assert not [each for each in directives if each.rpartition(".")[0] in ("bevt_core.api", "pipeline", "trainer")]


def variables_in_code() -> set[str]:
    """The environment variables that our modules read, set, or name in a message."""
    sources = [path for package in PACKAGES for path in (REPO / package).rglob("*.py")]
    text = "\n".join(source.read_text() for source in sources)
    return {*VARIABLE.findall(text), *re.findall(r"environ(?:\.\w+\(|\[)\"(\w+)\"", text)} - NO_VARIABLES


def test_environment_variables() -> None:
    page = (REFERENCE / "environment.md").read_text()
    named = {name for name in re.findall(r"`([A-Za-z_0-9]+)(?:=[^`]*)?`", page) if VARIABLE.fullmatch(name)}
    of_libraries = {"HF_HOME"}
    assert named - variables_in_code() == of_libraries
    assert not {name for name in variables_in_code() if f"`{name}" not in page}


def test_exit_codes() -> None:
    page = (REFERENCE / "exit-codes.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == [0, 1, 2, INTERRUPTED, 143]
