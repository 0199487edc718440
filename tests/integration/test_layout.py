"""How the repository is laid out: what a folder and a module may hold, and where its tests are."""

import ast
import re
from collections import Counter
from pathlib import Path

REPO = Path(__file__).parents[2]
PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")
MAX_MODULES = 12  # in a folder, beside its __init__.py
MAX_LINES = 300  # of a module
TESTS = ("unit", "integration", "e2e", "parity", "golden")  # folders whose test modules nobody imports


def product_modules() -> list[Path]:
    """`cli.py` and the modules of all packages, from the root of the repository."""
    found = (path for package in PACKAGES for path in (REPO / package).rglob("*.py"))
    return [Path("cli.py"), *(path.relative_to(REPO) for path in sorted(found))]


def test_no_test_imports_a_test() -> None:
    test_module = re.compile(rf"tests\.({'|'.join(TESTS)})(\.\w+)*(\.| import )test_\w+")
    named = {
        str(path.relative_to(REPO)): match[0]
        for path in (REPO / "tests").rglob("*.py")
        if (match := test_module.search(path.read_text()))
    }
    assert not named, "move what they share into tests/support"


def test_a_folder_has_few_modules() -> None:
    counts = Counter(path.parent.as_posix() for path in product_modules() if path.name != "__init__.py")
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}


def test_a_module_is_short() -> None:
    lines = {path.as_posix(): len((REPO / path).read_text().splitlines()) for path in product_modules()}
    assert not {path: count for path, count in lines.items() if count > MAX_LINES}


def test_a_module_says_what_it_is() -> None:
    sources = {path: (REPO / path).read_text() for path in product_modules()}
    sources |= {path.relative_to(REPO): path.read_text() for path in (REPO / "tests").rglob("*.py")}
    assert not [str(path) for path, text in sources.items() if text.strip() and not ast.get_docstring(ast.parse(text))]


def test_unit_tests_mirror_the_packages() -> None:
    """tests/unit/A/B tests the package or module A/B."""
    unit = REPO / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert len(folders) > 20
    assert not [str(folder) for folder in folders if not (REPO / folder).is_dir()]
