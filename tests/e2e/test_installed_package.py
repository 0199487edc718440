"""The source distribution and the wheel: complete, and usable in another folder without the repository.

$BEVT_DIST may name a folder with both, as `make package` does; without it they are built here.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow
BUILD = "from setuptools import build_meta; build_meta.build_{kind}({out!r})"
NOT_PRODUCT = {"tests", "benchmarks", "docs", "deploy", "hubconf.py"}


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints to stdout, with nothing of this checkout on its path."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env=inherited | environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def tracked_files() -> list[str]:
    """The repository's files, without those that git ignores."""
    if not (REPO / ".git").exists():
        pytest.skip("needs the repository's git")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPO)
    return sorted(name for name in listed.split("\0") if name and (REPO / name).is_file())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    if given := os.environ.get("BEVT_DIST"):
        return REPO / given
    pytest.importorskip("setuptools", minversion="77", reason="the package is built without a network")
    place = tmp_path_factory.mktemp("build")
    source = place / "source"
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, source / name)
    run(sys.executable, "-c", BUILD.format(kind="sdist", out=str(place / "dist")), cwd=source)
    run(sys.executable, "-c", BUILD.format(kind="wheel", out=str(place / "dist")), cwd=unpacked(place / "dist", place))
    return place / "dist"


def unpacked(dist: Path, place: Path) -> Path:
    """The root of the sdist, unpacked below `place`."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def bin_folder(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel; dependencies are those of this Python."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    (wheel,) = dist.glob("*.whl")
    python = place / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel.resolve()]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=place)
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    Path(folder, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_the_sdist_has_every_file_of_the_repository(dist: Path, tmp_path: Path) -> None:
    root = unpacked(dist, tmp_path)
    missing = [name for name in tracked_files() if not (root / name).is_file()]
    assert not missing, "name them in MANIFEST.in"


def test_tests_run_from_the_sdist(dist: Path, tmp_path: Path) -> None:
    root = unpacked(dist, tmp_path)
    tests = [
        "tests/integration/test_layout.py",
        "tests/golden/test_surfaces.py",
        "tests/unit/bevt_core/test_masking.py",
    ]
    printed = run(sys.executable, "-m", "pytest", "-q", *tests, cwd=root, PYTHONPATH=str(root))
    assert " passed" in printed and "failed" not in printed


def test_the_wheel_has_the_product_its_types_and_licence(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in ("schemas", "bevt_core", "pipeline", "trainer")} <= set(names)
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert not {name.split("/")[0] for name in names} & NOT_PRODUCT


def test_commands_of_the_wheel_run_in_another_folder(bin_folder: Path, tmp_path: Path) -> None:
    def bevt(*arguments: str) -> str:
        return run(bin_folder / "bevt", *arguments, cwd=tmp_path)

    assert bevt("--version").startswith("bevt ")
    assert "--recipe" in bevt("train", "--help")
    (model,) = json.loads(bevt("model", "list", "--json"))["models"]
    assert Path(model["weights"]).is_relative_to(bin_folder.parent) and Path(model["weights"]).is_file()
    found = json.loads(bevt("doctor", "--data", ".", "--json").splitlines()[-1])
    assert found["problems"] == 0 and found["findings"]["import names"]["state"] == "ok"


def test_recipes_and_weights_of_the_wheel_are_found(bin_folder: Path, tmp_path: Path) -> None:
    code = """if True:
        import bevt_core
        from bevt_core import load_finetune_recipe, load_pretrain_recipe, load_recipe, load_run, load_tokenizer
        load_recipe("laptop_video", ["root=videos", "out=data"])
        load_pretrain_recipe("ablations/online_joint")
        load_finetune_recipe("laptop_finetune")
        print(load_tokenizer("dvae-small").vocab_size, type(load_run("bevt-nano").model).__name__)
        print(bevt_core.__file__)
    """
    loaded, file = run(bin_folder / "python", "-c", code, cwd=tmp_path).splitlines()
    assert loaded == "1024 Bevt" and Path(file).is_relative_to(bin_folder.parent)
