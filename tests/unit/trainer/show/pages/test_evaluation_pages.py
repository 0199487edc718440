"""The pages of an evaluation: the confusion matrix and the clips behind its cells."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bevt_core.viewer.site import Site
from schemas.evaluation import SCORES_SCHEMA
from tests.support.builders import make_token_set
from tests.support.hostile_names import NAMES
from tests.support.media import moving_frames, write_video
from tests.support.served_pages import page, picture
from trainer.show.pages import evaluation
from trainer.show.pages.sites import evaluation_site
from trainer.testing.evaluate import PLAN, RESULT, SCORES, accuracies
from trainer.testing.tables import write_tables

CLASSES = (NAMES[0], NAMES[2])
CLIPS = [("0000.mp4", 0, 0), ("0001.mp4", 1, 1), ("0002.mp4", 0, 1), ("0003.mp4", 1, 1), ("../0.mp4", 0, 1)]


def row_of(name: str, label: int, prediction: int, score: float = 0.75) -> dict[str, object]:
    scores = [1 - score, score] if prediction else [score, 1 - score]
    rank = int(label != prediction)
    return {"video": name, "label": label, "prediction": prediction, "rank": rank, "scores": scores, "error": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `bevt evaluate --out` leaves it."""
    out = tmp_path_factory.mktemp("evaluation")
    rows = [row_of(*clip, score=0.6 + at / 20) for at, clip in enumerate(CLIPS)]
    unread = {"video": "9.mp4", "label": 0, "prediction": None, "rank": None, "scores": None, "error": "empty"}
    pq.write_table(pa.Table.from_pylist([*rows, unread], schema=SCORES_SCHEMA), out / SCORES)
    write_tables(out / SCORES, CLASSES, out)
    result = accuracies([*rows, unread], len(CLASSES)) | {"views": "1x1", "data": NAMES[1], "temporal": "normal"}
    (out / RESULT).write_text(json.dumps(result))
    (out / PLAN).write_text("{}")
    return out


def opened(folder: Path, clips: Path | None = None) -> Site:
    site = evaluation_site(folder, clips=None if clips is None else str(clips))
    assert site is not None
    return site


def test_the_matrix_leads_to_the_clips_of_a_cell(folder: Path) -> None:
    site = opened(folder)
    shown = page(site)
    assert "60.0% top-1 of 5 clips" in shown.text and "1 unreadable" in shown.text
    cells = {"clips?true=0&predicted=0", "clips?true=0&predicted=1", "clips?true=1&predicted=1"}
    assert cells <= set(shown.links) and "clips?true=1&predicted=0" not in shown.links
    cell = page(site, "clips", "true=0&predicted=1")
    assert "2 clips" in cell.text and "0002.mp4" in cell.text and "0001.mp4" not in cell.text
    assert cell.text.index("../0.mp4") < cell.text.index("0002.mp4"), "the most confident first"
    assert "bevt view --clips" in cell.text
    assert "5 clips" in page(site, "clips").text and "3 clips" in page(site, "clips", "true=0").text


def test_many_classes_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MATRIX_CLASSES", 1)
    html = opened(folder).answer("", "").body.decode()
    assert "data:image/png" in html and 'class="matrix"' not in html
    assert "clips?true=0&predicted=1" in page(opened(folder)).links


def test_clips_of_a_frame_store(folder: Path, tmp_path: Path) -> None:
    data = make_token_set(tmp_path, num_samples=4, frames=20)
    for clips in (tmp_path, Path(str(data.frames.path))):
        site = opened(folder, clips)
        assert f"{NAMES[0]}, taken for {NAMES[2]} with 70%: 0002.mp4" in page(site, "clips", "true=0&predicted=1").text
        film = Image.open(io.BytesIO(picture(site, "clip", "number=2")))
        assert film.n_frames == 16 and film.size == (213, 160)
    page(site, "clip", "number=4", 500)
    page(site, "clip", "number=5", 404)


def test_clips_of_files_do_not_leave_their_root(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", moving_frames(6))
    write_video(tmp_path / "root" / "0000.mp4", moving_frames(6))
    (tmp_path / "root" / "0001.mp4").symlink_to(tmp_path / "0.mp4")
    site = opened(folder, tmp_path / "root")
    assert Image.open(io.BytesIO(picture(site, "clip", "number=0"))).n_frames == 6
    for number in (1, 4):
        assert "leads out of" in page(site, "clip", f"number={number}", 500).text
    page(site, "clip", "number=2", 500)  # missing
    page(site, "clip", "number=../0", 400)


def test_an_unfinished_or_damaged_evaluation(folder: Path, tmp_path: Path) -> None:
    assert evaluation_site(tmp_path) is None
    (tmp_path / PLAN).write_text("{}")
    site = opened(tmp_path)
    assert "not finished" in page(site, "", "", 500).text
    for name in (RESULT, SCORES, "per_class.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page(site)
    pq.write_table(pa.Table.from_pylist([row_of("a", 0, 7)], schema=SCORES_SCHEMA), tmp_path / SCORES)
    assert "labels 7 to 7, but per_class.csv has 2 classes" in page(opened(tmp_path), "", "", 500).text
    (tmp_path / RESULT).write_text("{}")
    assert "no top1, top5" in page(opened(tmp_path), "", "", 500).text
