"""The wheel has every file of the packages, data included: weights and recipes, whatever their names."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

PACKAGES = ("schemas", "bevt_core", "pipeline", "trainer")
MODEL = "bevt_core/weights/pretrained/bevt-test/model.safetensors"  # a stand-in, as if a model were added
SHIPPED = ("bevt_core/tokenizers/pretrained/dvae-small/encoder.safetensors", "trainer/recipes/nano_joint.yaml", MODEL)


def test_a_wheel_has_every_file(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="the wheel is built without a network")
    for name in PACKAGES:
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "cli.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / MODEL).parent.mkdir(parents=True)
    (tmp_path / MODEL).touch()
    files = {path.relative_to(tmp_path).as_posix() for name in PACKAGES for path in (tmp_path / name).rglob("*")}
    files = {name for name in files if (tmp_path / name).is_file()}
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert files.issuperset(SHIPPED)
    assert not files - shipped, "not in the wheel: name them under package-data in pyproject.toml"
