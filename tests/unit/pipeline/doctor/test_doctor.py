"""`bevt doctor`: what is wrong has advice, and one broken library does not hide the rest."""

import json
import resource
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from bevt_core.import_names import PACKAGES
from cli import app
from pipeline.doctor import machine, software
from pipeline.doctor.examine import examine
from pipeline.doctor.finding import Finding, guarded
from tests.support.json_keys import CheckKeys

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _measure_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEASURE_S", 0.01)
    monkeypatch.setattr(machine, "DISK_BYTES", 1 << 20)


def test_the_command_shows_every_subject_and_its_json_has_them_too(tmp_path: Path, json_keys: CheckKeys) -> None:
    ran = CliRunner().invoke(app, ["doctor", "--no-ray", "--data", str(tmp_path), "--json"])
    found = json.loads(ran.stdout)
    json_keys("doctor", found)
    assert ran.exit_code == 0 and found["problems"] == 0
    assert {"torch", "GPUs", "decoders", "open files", f"disk of {tmp_path}"} <= found["findings"].keys()
    speeds = found["findings"]["decoding, per CPU"]["value"]
    assert "JPEGs/s" in speeds and not speeds.startswith("0 ")
    shown = CliRunner().invoke(app, ["doctor", "--no-ray", "--data", str(tmp_path)]).stdout
    assert all(subject in shown for subject in found["findings"])


def test_a_missing_folder_is_a_problem_and_the_exit_code_1(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["doctor", "--no-ray", "--data", str(tmp_path / "none")])
    assert ran.exit_code == 1 and "no such folder" in ran.stdout and "1 problem," in ran.stdout
    assert not list(tmp_path.iterdir())


def test_a_failing_check_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Finding:
        raise OSError("libcudart.so.13: cannot open\nshared object file")

    found = guarded("torch", broken)
    assert found.state == "problem" and found.advice == "OSError: libcudart.so.13: cannot open shared object file"
    monkeypatch.setattr(software, "pytorch", broken)
    assert {finding.subject: finding.state for finding in examine(tmp_path, with_ray=False)}["python"] == "ok"


@pytest.mark.parametrize("module", ["trainer.py", "pipeline/__init__.py"])
def test_another_project_with_our_names_is_named(module: str, tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()  # without __init__.py it does not hide a package
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.touch()
    found = software.names([str(tmp_path), *sys.path])
    assert found.state == "warning" and found.value == str(path)
    assert software.names([str(PACKAGES)]).state == "ok"


def test_limits_have_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    assert machine.open_files().advice.endswith("`ulimit -n 4096`")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine.open_files().state == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - (1 << 20), 1 << 20))
    assert machine.shared_memory().state == "warning"
    assert machine.disk(tmp_path).state == "problem"


@pytest.mark.parametrize(
    ("cuda_of_torch", "word"), [(None, "built for CPUs only"), ("13.0", "driver does not support")]
)
def test_a_gpu_that_torch_does_not_see_is_a_problem(
    cuda_of_torch: str | None, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda_of_torch)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidia0" or exists(path))
    found = machine.gpus()
    assert found.state == "problem" and word in found.advice


def test_old_gpus_get_advice_about_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="V100", total_memory=16 * 10**9, major=7)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    found = machine.gpus()
    assert found.value == "2 x V100, 16 GB" and "fp16" in found.advice
