"""The page of a tokenization job, and the bytes of a frame."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.look.report
from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import Rejected, write_frame_manifest, write_frame_part
from bevt_core.dataset.token_set import TokenSet
from bevt_core.reporting.pictures import GAP_PX
from bevt_core.views.replay import apply_view
from pipeline.bench.store import bench_store
from pipeline.look.contact_sheet import chosen_samples, draw, few_parts, spread, spread_rows
from pipeline.look.report import REPORT, count_tokens, report_job
from schemas.errors import UserError
from schemas.frames import Plan, PoolSpec
from tests.support.builders import make_token_set
from tests.support.json_keys import CheckKeys

TIMELINE = [(0.5 * part, 8) for part in range(1, 13)]


@pytest.fixture(scope="module")
def token_set(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return make_token_set(tmp_path_factory.mktemp("reported"), num_samples=12, sources_per_part=4, frames=6)


def summary_of(frames_dir: Path, tokens_dir: Path | None, **more: Any) -> dict[str, Any]:
    places = {"frames_dir": str(frames_dir), "tokens_dir": None if tokens_dir is None else str(tokens_dir)}
    done = {"parts": 12, "parts_done_before": 0, "frame_parts_done_before": 0}
    return {**done, "actor_busy_share": 0.931, **places, **more}


def headings(page: Path) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page.read_text())


def test_the_pages_have_every_section(token_set: TokenSet) -> None:
    written = report_job(summary_of(token_set.frames.path, token_set.path), TIMELINE)
    frames_page, tokens_page = token_set.path.parent.parent / REPORT, token_set.path / REPORT
    assert written == {"report": str(tokens_page), "report_error": None}
    assert headings(frames_page) == ["The job", "Throughput", "Rejected", "Durations and sizes", "Contact sheet"]
    assert headings(tokens_page) == ["The job", "Throughput", "Codebook", "Contact sheet"]
    for page in (frames_page, tokens_page):
        html = page.read_text()
        assert html.count("data:image/png;base64,") == 3 and "93.1% (of the time, spent tokenizing)" in html
        (link,) = re.findall('(?:src|href)="(?!data:)([^"]*)"', html)  # else self-contained
        assert (page.parent / link).resolve() == (tokens_page if page == frames_page else frames_page)
    assert "Tokens are not decoded" in tokens_page.read_text()  # no tokenizer of this set exists


def test_a_finished_job_draws_nothing_again(token_set: TokenSet) -> None:
    report = token_set.path / REPORT
    report.write_text("there")
    done = summary_of(token_set.frames.path, token_set.path, parts_done_before=12, frame_parts_done_before=12)
    assert report_job(done, [])["report"] == str(report)
    assert report.read_text() == "there"
    report.unlink()
    report_job(done, [])
    assert "Contact sheet" in report.read_text()


def test_a_second_token_set_keeps_the_existing_reports(tmp_path: Path) -> None:
    """Each set has a page; the frames' page is unchanged, except that it links to all of them."""
    pages, frames_page = {}, tmp_path / REPORT
    for number, views in enumerate((2, 3)):
        made = make_token_set(tmp_path, num_samples=6, num_views=views)
        frames_done = 12 * number  # the second job decodes nothing
        summary = summary_of(made.frames.path, made.path, frame_parts_done_before=frames_done, number=number)
        pages[views] = Path(str(report_job(summary, TIMELINE)["report"]))
        if number == 0:
            first = {page: page.read_text() for page in (pages[2], frames_page)}
    assert pages[2].read_text() == first[pages[2]] != pages[3].read_text()
    html = frames_page.read_text()
    assert re.findall('href="(.*?)"', html) == ["tokens/test-v2/report.html", "tokens/test-v3/report.html"]
    assert re.sub("<nav>.*?</nav>", "", html) == re.sub("<nav>.*?</nav>", "", first[frames_page])


@pytest.mark.parametrize(("samples", "in_a_part", "shown"), [(1, 8, 1), (7, 8, 7), (15, 1, 15), (40, 20, 24)])
def test_a_small_set_shows_many_samples(tmp_path: Path, samples: int, in_a_part: int, shown: int) -> None:
    """All different, up to 24, for any number of parts, and the same ones each time."""
    made = make_token_set(tmp_path, num_samples=samples, sources_per_part=in_a_part, frames=2, crop_px=32)
    drawn = chosen_samples(made.frames, made)
    assert len({sample.label.split(",")[0] for sample in drawn}) == len(drawn) == shown
    assert {sample.label[-6:] for sample in drawn} == {f"view {view}" for view in range(min(2, shown))}
    again = chosen_samples(made.frames, made)
    assert [sample.label for sample in again] == [sample.label for sample in drawn]
    assert draw(drawn, None).shape[1] == min(3, shown) * (2 * (168 + GAP_PX) + GAP_PX)
    for sample in drawn:
        name, view = re.fullmatch(r"(.*), view (\d)", sample.label).groups()  # type: ignore[union-attr]
        row = made.frames.index["sample_id"].to_pylist().index(name)
        part, at = divmod(row, in_a_part)
        stored = made.read_view(part, int(view))
        np.testing.assert_array_equal(sample.tokens_hw, stored.tokens[at][1])
        np.testing.assert_array_equal(sample.view_HWC, apply_view(sample.frame_HWC, stored.views[at]))


def test_samples_of_a_large_set_are_spread_over_a_few_parts() -> None:
    counts = {part: 1 if part == 30 else 128 for part in range(0, 3000, 3)}
    few = few_parts(counts, 24)
    assert len(few) == 12 and min(few) == 0 and max(few) >= 2900
    chosen = spread_rows(few, 24)
    assert len(set(chosen)) == 24 and {part for part, _ in chosen} == set(few)
    assert all(0 <= row < counts[part] for part, row in chosen)
    assert few_parts(dict.fromkeys(range(30), 1), 24).keys() == {*spread(30, 24)}
    assert few_parts({3: 2}, 24) == {3: 2} and spread_rows({3: 2}, 24) == [(3, 0), (3, 1)]
    assert spread_rows({}, 24) == []


def test_rejected_sources_are_listed_as_examples(tmp_path: Path) -> None:
    """Also if the store has nothing else, and names look like markup."""
    plan = Plan(
        dataset="folder", split="train", classes=(), pool=PoolSpec(), seed=0, sources_per_part=5, num_sources=10,
        sources_digest="0",
    )  # fmt: skip
    frames_dir = tmp_path / "frames"
    commits = []
    for part in range(2):
        names = [f"<b>{part}-{i}.mp4" for i in range(5)]
        rejected = [Rejected(name, None, "open", "empty-file", "0 bytes", 1) for name in names]
        commits.append(write_frame_part(frames_dir, part, [], rejected, plan))
    write_frame_manifest(frames_dir, plan, commits)
    assert report_job(summary_of(frames_dir, None), TIMELINE)["report_error"] is None
    html = (tmp_path / REPORT).read_text()
    assert '<td>empty-file</td><td class="n">10</td>' in html
    assert re.findall("&lt;b&gt;[0-9]-[0-9].mp4", html) == [f"&lt;b&gt;0-{i}.mp4" for i in range(3)]
    assert "There is no sample to show." in html


@pytest.mark.parametrize("seconds", [0.4, 40.0, 400.0, 40_000.0])
def test_a_job_may_take_less_than_a_second(token_set: TokenSet, seconds: float) -> None:
    timeline = [(seconds * share, 8) for share in (0.5, 1.0)]
    assert report_job(summary_of(token_set.frames.path, token_set.path), timeline)["report_error"] is None


def test_a_report_that_cannot_be_drawn_is_reported(token_set: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pipeline.look.report, "_codebook", fails)
    result = report_job(summary_of(token_set.frames.path, token_set.path), TIMELINE)
    assert result == {"report": None, "report_error": "RuntimeError: no fonts"}


def test_tokens_are_counted_by_view(token_set: TokenSet) -> None:
    counts = count_tokens(token_set, [0, 2])
    expected = np.zeros_like(counts)
    for part in (0, 2):
        for row in pq.read_table(token_set.path / f"{part_name(part)}.parquet").to_pylist():
            np.add.at(expected[row["view"]], np.array(row["tokens"]).reshape(-1), 1)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == 2 * 4 * 6 * 16 * 2


def test_spread() -> None:
    assert spread(3, 10) == [0, 1, 2]
    assert spread(1000, 3) == [0, 500, 999]
    assert spread(0, 3) == []


def test_uniform_tokens_of_a_real_grid_take_320_bytes(tmp_path: Path, json_keys: CheckKeys) -> None:
    token_set = make_token_set(tmp_path, num_samples=32, sources_per_part=32, frames=32, grid=14, vocab_size=8192)
    found = bench_store(tmp_path)
    json_keys("bench store", found)
    assert 196 * 13 / 8 < found["token_bytes_per_frame"] < 330
    files = list(token_set.path.glob("*.parquet"))
    assert found["token_sets"]["test-v2"]["bytes"] == sum(path.stat().st_size for path in files)
    stored = sum(path.stat().st_size for path in tmp_path.glob("frames/part-*/frames.zarr/**/*") if path.is_file())
    assert found["frame_bytes"] == stored / 1024


def test_bytes_of_an_unfinished_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames/ in it"):
        bench_store(tmp_path)
