"""The benchmark of a training step: its parts on a CPU, the tokenizer in it, and its options."""

import warnings
from pathlib import Path

import pytest
import torch

import cli
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.networks import build_encoder, to_package_state
from bevt_core.tokenizers.weights_files import save_tokenizer
from schemas.errors import UserError
from tests.support.json_keys import CheckKeys
from trainer.bench.step import SYNC_WARNING, bench_train_step, count_syncs

NANO = {"size": "nano", "clips": 1, "images": 1, "frames": 2, "size_px": 64, "device": "cpu", "repeats": 2}


def test_the_parts_make_up_the_step(json_keys: CheckKeys) -> None:
    result = bench_train_step(**NANO, activation_checkpointing=True)  # type: ignore[arg-type]
    json_keys("bench step --device cuda", result)
    parts = sum(result[f"{part}_ms"] for part in ("forward", "backward", "optimizer"))
    assert min(result[f"{part}_ms"] for part in ("forward", "backward", "optimizer")) > 0
    assert parts < 1.001 * result["step_ms"]  # the median of two steps is their mean, so the parts add up
    assert result["attention"] in ("math", "cpu") and result["activation_checkpointing"]
    assert result["mfu"] is None and result["peak_gb"] is None and result["syncs"] is None  # measured on GPUs only
    assert result["tokens"] == "stored" and result["loss"] > 0


def test_the_tokenizer_may_be_in_the_step(tmp_path: Path) -> None:
    sizes = DvaeSizes(n_hid=8, n_blk_per_group=1)
    state = to_package_state(build_encoder(sizes))
    save_tokenizer(tmp_path / "t", state, None, kind="dalle", sizes=sizes, input_px=64, origin={})
    tokenizer = load_tokenizer(tmp_path / "t")
    assert bench_train_step(**NANO, tokenizer=tokenizer)["tokens"] == "in the step, float32"  # type: ignore[arg-type]


def test_a_tokenizer_of_another_grid_is_refused() -> None:
    with pytest.raises(UserError, match="14 x 14 tokens per frame, but size nano predicts 8 x 8 at 64 px"):
        bench_train_step(**NANO, tokenizer=load_tokenizer("dvae-small"))  # type: ignore[arg-type]


def test_waits_of_the_host_for_the_gpu_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        assert modes == ["warn"]
        warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=1)
        for _ in range(3):  # from one line: each one counts
            warnings.warn(f"{SYNC_WARNING} (Triggered internally)", stacklevel=1)

    assert count_syncs(step, torch.device("cuda")) == 3 and modes == ["warn", "default"]
    assert count_syncs(step, torch.device("cpu")) is None


@pytest.mark.parametrize("option", [["--compile"], ["--attention", "math"], ["--precision", "fp32"]])
def test_options_of_a_gpu_are_refused_for_the_comparison(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.app(["bench", "step", *option], standalone_mode=False)
    assert f"{option[0]} is for --device cuda" in capsys.readouterr().err


def test_a_missing_gpu_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="sees no CUDA GPU"):
        bench_train_step(size="nano")
