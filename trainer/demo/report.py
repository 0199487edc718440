"""The demo's report: accuracies with and without pretraining, predicted clips, curves, and the cost of each command."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bevt_core.console.readable import count
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.reporting.marks import big_share, cost, heads, line_plot
from bevt_core.reporting.page import Page
from schemas.errors import UserError
from schemas.evaluation import Temporal
from trainer.demo.clips import PREDICTION_HEADS, class_clips, predicted_clips, stored_views
from trainer.metrics.log import read_metrics
from trainer.runs.browse import averaged, points_of

ORDERS: dict[Temporal, str] = {"normal": "in order", "single-frame": "one frame", "shuffle": "shuffled"}
FINETUNED = ("scratch", "pretrained")  # runs/finetune-..., in the order of the table's rows
TOKENS = Path("videos/tokens/dvae-v2")  # of the clips without labels
POINTS = 60  # of a curve: neighbouring steps are averaged

Curves = Mapping[str, tuple[str, str]]  # name -> (run, metric)

LOSSES: Curves = {"videos": ("joint", "mvm_loss"), "images": ("joint", "mim_loss")}
HITS: Curves = {"videos": ("joint", "mvm_acc"), "images": ("joint", "mim_acc")}


class Accuracies(NamedTuple):
    """Top-1 of two classifiers by the order of the frames, the first one from scratch, and what they were measured on.

    Names of rows begin with "from".
    """

    top1: Mapping[str, Mapping[str, float]]
    classes: int
    labelled_videos: int  # that the classifiers were fine-tuned on
    test_videos: int


def write_report(out: Path, steps_done: Sequence[tuple[str, str, float | None]], tables: Accuracies) -> Path:
    """Write `out/report.html` from the datasets and runs of the demo; return its path.

    `steps_done` has the title, the command and the seconds of each step, None for those of an earlier call. What cannot
    be read is named in the report.
    """
    page = Page("bevt demo: does pretraining pay?")
    page.text(_summary(out, tables), "lead")
    with page.arranged("first"):
        with page.together():
            _accuracies(page, tables)
        with page.together():
            _or_reason(page, lambda: _predictions(page, out))
        with page.together():
            _plot(
                page,
                out,
                "Accuracy on test clips during fine-tuning",
                _of_finetuning(tables, "val_top1"),
                percent=True,
                levels={"chance": 1 / tables.classes},
                colours=(0, 1),
            )
    page.heading("Training")
    with page.arranged("charts"):
        _plot(page, out, "Loss of fine-tuning", _of_finetuning(tables, "loss"), colours=(0, 1))
        _plot(page, out, "Loss of pretraining, nats", LOSSES)
        _plot(page, out, "Hidden tokens predicted in pretraining", HITS, percent=True)
    page.heading("What each command cost")
    _costs(page, steps_done)
    page.heading("The classes")
    _or_reason(page, lambda: _classes(page, out))
    page.heading("What is stored")
    _or_reason(page, lambda: _stored(page, out))
    path = out / "report.html"
    page.save(path)
    return path


def _summary(out: Path, tables: Accuracies) -> str:
    try:
        clips = count(FrameStore(out / "videos" / "frames").manifest.num_samples, "clip")
    except (UserError, OSError):
        clips = "clips"
    return (
        f"A small video network learned {count(tables.classes, 'camera motion')} from "
        f"{count(tables.labelled_videos, 'labelled clip')}, {' and '.join(tables.top1)} (pretrained further on {clips} "
        f"without labels), and was tested on {count(tables.test_videos, 'clip')} of other photographs."
    )


def _accuracies(page: Page, tables: Accuracies) -> None:
    chance = 1 / tables.classes
    (_, first), *others = tables.top1.items()
    rows = []
    for name, top1 in tables.top1.items():
        row: list[object] = [name]
        for order in ORDERS:
            gain = top1[order] - first[order] if others and top1 is not first and order == "normal" else None
            row.append(big_share(top1[order], chance, gain=gain, strong=top1 is not first))
        rows.append(row)
    page.table(["frames", *ORDERS.values()], rows, "wide tight")
    page.text(
        f"Top-1. The mark on each bar is chance, {chance:.1%}. One frame alone does not show the motion.",
        "quiet",
    )


def _predictions(page: Page, out: Path) -> None:
    clips = predicted_clips(out / "runs" / "joint", out / TOKENS, out / "raw" / "test")
    with page.arranged("strips"):
        page.mark(heads(PREDICTION_HEADS))
        for clip in clips:
            page.animation(*clip)
    page.text(
        "Test clips. The pretrained network predicts the tokens of the grey tubes, although its training hid whole "
        "frames. The last two columns are tokens decoded to pixels; where the clip is visible, both are the true ones.",
        "quiet",
    )


def _of_finetuning(tables: Accuracies, metric: str) -> Curves:
    """The same metric of both fine-tuning runs."""
    return {name: (f"finetune-{run}", metric) for name, run in zip(tables.top1, FINETUNED, strict=False)}


def _plot(
    page: Page,
    out: Path,
    title: str,
    curves: Curves,
    *,
    percent: bool = False,
    levels: Mapping[str, float] | None = None,
    colours: Sequence[int] = (1, 2),
) -> None:
    """Plot metrics of runs, and name those that were not logged."""
    series, missing = {}, []
    for name, (run, metric) in curves.items():
        try:
            points = points_of(read_metrics(out / "runs" / run), metric)
        except (UserError, OSError) as error:
            missing.append(str(error))
            continue
        if points:
            series[name] = averaged(points, POINTS)
        else:
            missing.append(f"runs/{run} has not logged {metric}")
    with page.together():
        if series:
            page.mark(line_plot(title, series, "step", percent=percent, levels=levels, colours=colours))
        if missing:
            page.text(f"Not shown: {'; '.join(missing)}.", "quiet")


def _costs(page: Page, steps_done: Sequence[tuple[str, str, float | None]]) -> None:
    measured = [seconds for _, _, seconds in steps_done if seconds is not None]
    longest = max(measured, default=1.0)
    rows = [
        (cost(title, command, None), "done earlier")
        if seconds is None
        else (cost(title, command, seconds / longest), round(seconds, 1))
        for title, command, seconds in steps_done
    ]
    page.table(["command", "seconds"], rows, "wide")
    minutes, rest = divmod(round(sum(measured)), 60)
    earlier = len(steps_done) - len(measured)
    text = f"{count(len(measured), 'command')} in {minutes} min {rest} s"
    page.text(text + (f"; {earlier} done earlier." if earlier else "."))


def _classes(page: Page, out: Path) -> None:
    clips = class_clips(FrameStore(out / "train" / "frames"))
    with page.arranged("tiles"):
        for clip in clips:
            page.animation(*clip, caption=clip.about)


def _stored(page: Page, out: Path) -> None:
    columns, strips = stored_views(TokenSet(out / TOKENS))
    with page.arranged("strips"):
        page.mark(heads(columns))
        for strip, source in strips:
            page.picture(strip, source)


def _or_reason(page: Page, draw: Callable[[], None]) -> None:
    """Draw a part of the page, or say why it cannot be drawn."""
    try:
        draw()
    except (UserError, OSError) as error:
        page.text(f"Not shown: {error}", "quiet")
