"""Measurements of the machine in the log, and logging to Weights & Biases."""

import sys
import types

import pytest
import torch

from schemas.errors import UserError
from tests.support.toy_run import CPU, LOOP, OPTIM, STEPS, ToySource, ToyTask, run
from trainer.engine.loop import fit
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.metrics.log import MetricsLog, read_metrics
from trainer.metrics.monitor import PEAK_TFLOPS, StepFlops, peak_tflops, rates

FLOPS = StepFlops(model=2e9, hardware=3e9)


def run_with_flops(folder, **loop):
    task = ToyTask()
    fit(
        task,
        ToySource(),
        build_optimizer(task.model, OPTIM),
        CosineSchedule(STEPS, 2, 0.1, 0.0),
        optim=OPTIM,
        loop=LOOP.model_copy(update={"max_steps": 2, **loop}),
        world=CPU,
        run_dir=folder,
        identity={},
        resume=False,
        step_flops=FLOPS,
    )
    return read_metrics(folder)[-1]


def test_a_line_splits_the_step_and_counts_operations(tmp_path):
    line = run_with_flops(tmp_path, peak_tflops=2.0)
    assert 0 < line["forward_backward_s"] + line["optimizer_s"] + line["data_wait_s"] <= line["step_s"]
    assert line["tflops_per_s"] == pytest.approx(3e9 / line["step_s"] / 1e12)
    assert line["hfu"] == pytest.approx(line["tflops_per_s"] / 2.0)
    assert line["mfu"] == pytest.approx(2 / 3 * line["hfu"])
    assert 0.05 < line["memory_gb"] < 100


def test_what_is_not_known_is_not_logged(tmp_path):
    """The peak of a CPU is known only if the recipe sets it."""
    line = run_with_flops(tmp_path)
    assert "tflops_per_s" in line and not {"mfu", "hfu"} & line.keys()
    assert peak_tflops(torch.device("cpu"), None) is None and rates(None, 1.0, CPU, 100.0) == {}


PEAKS = {
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA GH200 480GB": 989.0,
    "NVIDIA H20": 148.0,
    "NVIDIA H200": 989.0,
    "NVIDIA GB200": 2500.0,
    "NVIDIA B200": 2250.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A10": 125.0,
    "NVIDIA A10G": None,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA RTX 6000 Ada Generation": 364.2,
    "NVIDIA L4": 121.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 4090 Laptop GPU": None,
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": 503.8,
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": None,
    "Tesla V100-PCIE-32GB": 112.0,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "NVIDIA X1": None,
}


def test_known_gpus_are_recognised_by_their_names(monkeypatch):
    for name, peak in PEAKS.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(torch.device("cuda"), None) == peak
        assert peak_tflops(torch.device("cuda"), 7.0) == 7.0
    assert all(peak > 0 for peak in PEAK_TFLOPS.values())


def test_without_wandb_the_error_names_the_command_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"'bevt', but Weights & Biases is not installed; run `pip install -e '.*\[wandb\]'`"
    ):
        run(tmp_path, wandb="bevt")


def test_a_recipe_that_is_no_file_is_not_sent_to_wandb(tmp_path, monkeypatch):
    wandb = types.ModuleType("wandb")
    wandb.Settings, wandb.init, wandb.Error = dict, dict, RuntimeError
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "recipe.yaml").symlink_to("/proc/self/status")
    with pytest.raises(UserError, match=r"recipe\.yaml: a device or pipe, expected a file"):
        MetricsLog(tmp_path, 0, "bevt")
