"""The page of a run: curves and pictures, renewed while it trains."""

import json
from pathlib import Path

import numpy as np
import pytest

from bevt_core.viewer.site import Site
from schemas.errors import UserError
from tests.support.builders import make_token_set
from tests.support.pretraining import pretraining_run
from tests.support.served_pages import ServedPage, page
from trainer.metrics.log import MetricsLog
from trainer.show.pages import run as run_pages
from trainer.show.pages.predictions import newest_pictures
from trainer.show.pages.sites import run_site


def opened(run: Path) -> Site:
    site = run_site(run)
    assert site is not None
    return site


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run with a log and pictures."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path_factory.mktemp("run")
    out = folder / "run"
    pretraining_run(out, make_token_set(folder / "data", num_samples=2, frames=4))
    with MetricsLog(out, 0) as log:
        for step in range(50):
            log.write(step, {"loss": 9 - step / 10, "mvm_loss": 8.0, "mvm_acc": step / 100, "lr": 1e-3, "other": 1.0})
    writer = SummaryWriter(str(out / "tensorboard"))
    for step in (10, 40):
        noise = np.random.default_rng(step).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        writer.add_image("prediction/video", noise, step, dataformats="HWC")
    writer.close()
    return out


def test_a_finished_run_is_shown_once(run: Path) -> None:
    shown = page(opened(run))
    for text in (
        "Loss",
        "mvm_acc 49.0 %",
        "Learning rate",
        "prediction/video after 40 steps",
        "bevt train",
        "50 steps",
    ):
        assert text in shown.text
    assert "other" not in shown.text
    part = opened(run).answer("progress", "").body.decode()
    assert "data-final" in part and ServedPage(part).faults == []
    assert 'data-renew="progress" data-every="5000"' in opened(run).answer("", "").body.decode()


def test_a_run_in_progress_is_renewed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_pages.summary_of

    def alive(path: Path) -> dict[str, object]:
        return before(path) | {"status": "alive", "left_s": 90.0, "total_steps": 200}

    monkeypatch.setattr(run_pages, "summary_of", alive)
    site, drawn = opened(run), []
    draw = run_pages.draw_curves
    monkeypatch.setattr(run_pages, "draw_curves", lambda lines: drawn.append(len(lines)) or draw(lines))
    assert "alive: 50 of 200 steps" in page(site, "progress").text
    page(site, "progress")
    assert "data-final" not in site.answer("progress", "").body.decode()
    assert drawn == [50], "curves are drawn again only if the log has changed"
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 50, "loss": 1.25}) + "\n")
    assert "loss 1.25" in page(site, "progress").text and drawn == [50, 51]


def test_the_newest_pictures_are_found(run: Path, tmp_path: Path) -> None:
    ((step, png),) = newest_pictures(run).values()
    assert step == 40 and png.startswith(b"\x89PNG")
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    (whole,) = (path.read_bytes() for path in (run / "tensorboard").glob("events*") if newest_in(path))
    for name, data in {"cut": whole[:-100], "none": b"", "noise": bytes(range(256)) * 50}.items():
        (folder / "events.out.tfevents.1").write_bytes(data)
        found = newest_pictures(tmp_path)
        assert [step for step, _ in found.values()] == ([10] if name == "cut" else []), name
    (folder / "events.out.tfevents.2").symlink_to("/dev/zero")
    assert newest_pictures(tmp_path) == {}


def newest_in(path: Path) -> bool:
    return b"PNG" in path.read_bytes()


def test_what_is_no_run_and_what_is_damaged(run: Path, tmp_path: Path) -> None:
    assert run_site(tmp_path) is None
    for options, message in (({"clips": "x"}, "leave out `clips`"), ({"tokenizer": "x"}, "leave out `tokenizer`")):
        with pytest.raises(UserError, match=message):
            run_site(run, **options)
    for name in ("run.json", "recipe.yaml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    site = opened(tmp_path)
    assert "No step is logged yet." in page(site).text
    (tmp_path / "metrics.jsonl").write_text("{\n")
    page(site, "", "", 500)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    assert "loss 1" in page(site).text
