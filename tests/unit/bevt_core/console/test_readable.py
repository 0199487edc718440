"""Human-readable results: units, rounding, aligned tables, no raw values."""

import fcntl
import io
import json
import os
import re
import struct
import termios
from pathlib import Path

import pytest

from bevt_core.console import progress as progress_module
from bevt_core.console.progress import LINE_S, ProgressLine, say
from bevt_core.console.readable import clock, count, duration, shown, size, summary_lines, table
from bevt_core.console.terminal import emit

REPO = Path(__file__).parents[4]
CASES = {
    "top1": (0.45678, "45.7%"),
    "val_top1": (1.0, "100.0%"),
    "mvm_acc": (0.031, "3.1%"),
    "drop": (-5.551e-17, "0.0%"),
    "actor_busy_share": (0.931, "93.1%"),
    "loss": (4.123456, "4.123"),
    "class_loss": (0.5, "0.500"),
    "seconds": (3723.4, "1:02:03"),
    "first_tokens_s": (3.21, "3.2 s"),
    "step_s": (0.0123, "12.3 ms"),
    "videos_per_s": (12.3456, "12.35"),
    "samples_per_s": (12345.6, "12,346"),
    "bytes": (3_210_000_000, "3.21 GB"),
    "token_bytes_per_frame": (319.4, "319.4 B"),
    "memory_gb": (12.345, "12.3 GB"),
    "frames_gb": (0.0032, "3.2 MB"),
    "hours": (7.04, "7.0 h"),
    "gpu_hours": (0.01, "36.0 s"),
    "psnr_db": (31.234, "31.23 dB"),
    "multiply_adds_per_view": (282_000_000_000, "282 G"),
    "num_videos": (19881, "19,881"),
    "finished": (True, "yes"),
    "weights": (None, "-"),
    "weights_sha256": ("0079127922f0" + "c" * 52, "0079127922f0"),
    "git_revision": ("325c9521a5ef" + "0" * 28 + "-dirty", "325c9521a5ef-dirty"),
    "grad_norm": (float("nan"), "nan"),
    "pid": (14_018, "14018"),
    "video": ("a\n\x1b[31m.mp4", r"a\x0a\x1b[31m.mp4"),
}


@pytest.mark.parametrize("key", CASES)
def test_the_key_decides_the_unit(key):
    value, expected = CASES[key]
    assert shown(key, value) == expected


def test_times():
    assert [clock(s) for s in (0, 57.4, 1862, 3600, 360_000)] == ["0:00", "0:57", "31:02", "1:00:00", "100:00:00"]
    assert [duration(s) for s in (0.5, 59.96, 61, 90_061)] == ["500 ms", "0:01:00", "0:01:01", "25:01:01"]
    assert [size(b) for b in (12, 4096, 5e6, 3.2e12)] == ["12 B", "4.1 kB", "5 MB", "3,200 GB"]


def test_a_summary_is_a_table_and_has_no_raw_dictionary():
    summary = {
        "step": 12000,
        "metrics": {"loss": 4.123456, "val_top1": 0.4321},
        "failed": {},
        "classes": ["a", "b"],
        "knn": {"top1": 0.5, "num_videos": 3},
        "probes": {"knn": {"top1": 0.5, "num_videos": 3}, "linear": {"top1": 0.25, "num_videos": 3}},
        "problems": [{"file": "a", "what": "gone"}, {"file": "bb", "what": "torn"}],
    }
    assert summary_lines(summary) == [
        "step     12,000",
        "metrics (of the last step)",
        "  loss      4.123",
        "  val_top1  43.2%",
        "failed   none",
        "classes  a, b",
        "knn",
        "  top1        50.0%",
        "  num_videos  3",
        "probes",
        "           top1  num_videos",
        "  knn     50.0%           3",
        "  linear  25.0%           3",
        "problems",
        "  file  what",
        "  a     gone",
        "  bb    torn",
    ]


def test_a_small_loss_has_enough_digits():
    losses = (12.34567, 1.0, 0.98765, 0.0123456, 0.0, -0.01)
    assert [shown("mvm_loss", loss) for loss in losses] == ["12.346", "1.000", "0.988", "0.01235", "0.000", "-0.01000"]


def test_what_is_nested_has_the_unit_of_the_key_around_it():
    summary = {"seconds": {"min": 0.5, "max": 3723.4}, "totals_ms": {"math": 1.25, "sdpa": 10}}
    assert summary_lines(summary)[1:3] == ["  min  500 ms", "  max  1:02:03"]
    assert summary_lines(summary)[4:] == ["  math  1.2 ms", "  sdpa  10.0 ms"]


def test_a_long_list_is_cut_and_says_so():
    lines = summary_lines({"failed": {f"{i}.mp4": "cut off" for i in range(50)}})
    assert len(lines) == 12 and lines[-1] == "  and 40 more (all with --json)"


def test_numbers_are_aligned_to_the_right():
    assert table([["a", "1.50"], ["bb", "12.25"]], ["run", "loss"]) == ["run   loss", "a     1.50", "bb   12.25"]


def test_json_has_every_digit(capsys):
    emit({"loss": 4.123456789, "failed": {}}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"loss": 4.123456789, "failed": {}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watched(stream, unit="", total=1000, seconds=200, steps_per_s=5, name="step"):
    at = [0.0]
    with ProgressLine(name, total, unit=unit, now=lambda: at[0], stream=stream) as line:
        for step in range(total):
            at[0] += seconds / total
            line.update(step + 1, "loss 4.12", "lr 0.1")
    return stream.getvalue()


def test_a_pipe_gets_a_line_now_and_then():
    text = watched(io.StringIO())
    lines = text.splitlines()
    assert "\r" not in text and "\x1b" not in text and len(lines) == 21
    assert lines[0] == "step 0/1000  0.0%  elapsed 0:00"
    assert lines[10] == "step 500/1000  50.0%  loss 4.12  5 it/s  elapsed 1:40  left 1:40  lr 0.1"
    assert lines[-1] == "step 1000/1000  100.0%  loss 4.12  5 it/s  elapsed 3:20  lr 0.1"
    slow = watched(io.StringIO(), total=100, seconds=100 * LINE_S).splitlines()
    assert len(slow) == 101 and "  30 s/it  " in slow[50]
    assert len(watched(io.StringIO(), total=1000, seconds=2).splitlines()) <= 4


def test_a_terminal_has_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = watched(Terminal())
    assert text.count("\n") == 1 and text.endswith("\n")
    assert all(len(line.removesuffix("\x1b[K").strip("\n")) <= 39 + 3 for line in text.split("\r"))


def test_a_message_does_not_stick_to_the_terminals_line(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressLine("evaluate", 10, unit="videos") as line:
        say("warning: odd")
        line.add(10)
    assert "\r\x1b[Kwarning: odd\n\revaluate 10/10 videos" in stream.getvalue()
    assert progress_module._drawn is None


def test_only_rank_0_shows_it(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert watched(io.StringIO()) == ""


def test_the_rate_is_that_of_the_last_minute():
    at, stream = [0.0], io.StringIO()
    with ProgressLine("step", 400, now=lambda: at[0], stream=stream) as line:
        at[0] = 300.0  # the first step compiles
        line.update(1)
        for step in range(2, 202):
            at[0] += 1.0
            line.update(step)
        assert "  1 it/s  " in line.text() and "left 3:19" in line.text()


def test_the_width_is_that_of_the_terminal_behind_stderr(monkeypatch):
    """When stdout is a file, or is closed while Ray works."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 33, 0, 0))
    with open(theirs, "w") as stream:  # noqa: PTH123 - a descriptor
        assert progress_module._columns(stream) == 33
    os.close(ours)


def test_a_count_has_its_plural() -> None:
    assert [count(n, "process") for n in (0, 1, 1200)] == ["0 processes", "1 process", "1,200 processes"]
    assert [count(n, "epoch") for n in (0.5, 1.0, 1, 20.0)] == ["0.5 epochs", "1 epoch", "1 epoch", "20 epochs"]
    assert [count(2, noun) for noun in ("rank", "micro-batch", "video")] == ["2 ranks", "2 micro-batches", "2 videos"]


def test_no_text_of_ours_leaves_the_plural_to_the_reader() -> None:
    packages = ("schemas", "bevt_core", "pipeline", "trainer")
    files = [REPO / "cli.py", *(path for package in packages for path in (REPO / package).rglob("*.py"))]
    assert not [str(path) for path in files if re.search(r"[a-z]\((s|es|ies)\)", path.read_text())]


def test_keys_that_a_reader_may_not_know_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"usable": 7, "stubs": 2, "ignored": {".txt": 3}, "seconds": {"p5": 1.5}}
    assert summary_lines(summary) == [
        "usable  7",
        "stubs   2 (videos below 9 KiB, usually failed downloads)",
        "ignored (files of other kinds)",
        "  .txt  3",
        "duration",
        "  p5  1.5 s (5% are shorter)",
    ]
    emit(summary, as_json=True)
    assert json.loads(capsys.readouterr().out) == summary


def test_one_problem_is_a_table_too() -> None:
    lines = summary_lines({"problems": [{"path": "a", "problem": "missing", "fix": "run it again"}]})
    assert lines == ["problems", "  path  problem  fix", "  a     missing  run it again"]


def test_a_label_has_no_unit_that_differs_from_the_one_shown() -> None:
    summary = {"frames": 3, "frames_gb": 0.0032, "gpu_hours": 0.001, "hours": 0.03, "silent_s": 153.0, "ms": 3.0}
    assert summary_lines(summary | {"bytes_per_token": 2.0, "samples_per_s": 5.5}) == [
        "frames          3",
        "frames_size     3.2 MB",
        "gpu_time        3.6 s",
        "time            0:01:48",
        "silent          0:02:33 (since the last step)",
        "ms              3.0 ms",
        "size_per_token  2 B",
        "samples_per_s   5.5",
    ]
    rows = [{"name": "a", "hours": 2.0, "disk_gb": 1.5}]
    assert summary_lines({"steps": rows}) == ["steps", "  name   time    disk", "  a     2.0 h  1.5 GB"]


def test_what_is_unknown_is_left_out_and_an_empty_result_is_not() -> None:
    summary = {"step": 4, "bottleneck": None, "metrics": {}, "loss": {"first": None}, "failed": {}}
    assert summary_lines(summary) == ["step    4", "failed  none"]


def test_keys_may_be_numbers() -> None:
    assert summary_lines({"jpeg_ids_agree": {75: 0.5, 95: 1.0}}) == ["jpeg_ids_agree", "  75  0.5", "  95  1"]
