"""Fixtures that every test may use."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: pytest-xdist has a process per core already
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest

from bevt_core.console.terminal import OUR_PACKAGES, print_log
from tests.support.json_keys import CheckKeys, check_json_keys

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and images, where the machine has them: $BEVT_TEST_DATA, or ../shared/data beside the checkout."""
    path = Path(os.environ.get("BEVT_TEST_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real clips at {path}; set BEVT_TEST_DATA to a folder of them")
    return path


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Golden numbers computed by the original implementation."""
    return REPO / "tests" / "golden" / "oracle"


@pytest.fixture
def json_keys() -> CheckKeys:
    """Compares the keys of what a command prints with the pinned ones: `json_keys("runs list", summary)`."""
    return check_json_keys


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that check JSON keys, for `python -m tests.golden.surfaces`, and give slow ones an hour."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
        if "json_keys" in getattr(item, "fixturenames", ()):
            item.add_marker("json_keys")


@pytest.fixture(scope="session", autouse=True)
def printed_log() -> None:
    """Warnings and notes are printed as by `bevt`, also where a test calls a function of the library."""
    print_log((*OUR_PACKAGES, "tests"))


@pytest.fixture(autouse=True)
def no_safe_path_left_behind() -> Iterator[None]:
    """A command that a test calls in this process sets PYTHONSAFEPATH, and later tests' children would lack `tests`."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)
    else:
        os.environ["PYTHONSAFEPATH"] = before
