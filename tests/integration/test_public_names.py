"""What users import from the package names: every name exists, is documented and typed, and costs nothing unused."""

import importlib
import inspect
import os
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from bevt_core.lazy import public_modules
from tests.conftest import REPO

PACKAGES = ("bevt_core", "pipeline", "trainer")
NAMES = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{package}.{name}" for package, name in NAMES])
def test_a_public_name_is_documented_and_typed(package: str, name: str) -> None:
    value: Any = getattr(importlib.import_module(package), name)
    if not callable(value):
        assert name.isupper()
        return
    assert inspect.getdoc(value)
    signature = inspect.signature(value)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not untyped
    assert inspect.isclass(value) or signature.return_annotation is not signature.empty


@pytest.mark.parametrize("package", [*PACKAGES, "bevt_core.api"])
def test_type_checkers_see_the_names_that_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(public_modules(package)) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))


def test_every_public_name_is_in_bevt_core() -> None:
    core, pipeline, trainer = map(importlib.import_module, PACKAGES)
    assert {*pipeline.__all__, *trainer.__all__} == set(importlib.import_module("bevt_core.api").__all__)
    for package in (pipeline, trainer):
        assert all(getattr(core, name) is getattr(package, name) for name in package.__all__)


def test_an_unknown_name_is_an_error_and_submodules_stay_importable() -> None:
    with pytest.raises(ImportError, match="cannot import name 'FrameStores'"):
        exec("from bevt_core import FrameStores", {})
    exec("from bevt_core import commands; from trainer import finetune, pretrain; finetune.__path__", {})


def test_names_cost_nothing_until_they_are_used() -> None:
    code = """if True:
        import sys, bevt_core, pipeline, trainer
        dir(bevt_core)
        assert {"torch", "ray", "numpy", "pyarrow", "pydantic", "ast"}.isdisjoint(sys.modules), sys.modules
        from bevt_core import FrameStore, TokenSet, load_tokenizer, read_view
        from bevt_core import list_sources, load_recipe
        assert {"torch", "ray"}.isdisjoint(sys.modules), sys.modules
    """
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_threads_wait_asleep_unless_the_user_chooses(package: str) -> None:
    """Set before torch is imported, which reads it once; children of the process inherit it."""
    code = f"import {package}, os, sys; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        inherited = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, cwd=REPO, env=inherited | given, check=True, capture_output=True, text=True)
        assert found.stdout.strip() == expected


def test_every_package_ships_its_types() -> None:
    shipped = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("schemas", *PACKAGES):
        assert (REPO / package / "py.typed").is_file() and "py.typed" in shipped[package]
