"""The pages of a dataset: its samples, one sample, masks, rejected sources; hostile names, damaged files."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import FrameSample, Rejected, write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import sources_digest, write_plan
from bevt_core.masking import STRATEGIES, draw_mask
from bevt_core.rng import rng_for
from bevt_core.storage.files import write_record
from bevt_core.tokenizers import load_tokenizer
from bevt_core.viewer.site import Site
from pipeline.look.pages import dataset as dataset_pages
from pipeline.look.pages.dataset import dataset_site
from schemas.errors import UserError
from schemas.frames import Plan, PoolSpec, SourceItem
from schemas.tokens import TOKENIZER_PLACE, TokenizerPlace
from tests.support.builders import make_token_set
from tests.support.hostile_names import NAMES
from tests.support.served_pages import page, picture
from tests.support.tiny_jobs import save_tiny_tokenizer

SAMPLES, PER_PART, FRAMES = 10, 4, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a token set whose tokenizer is found."""
    out = tmp_path_factory.mktemp("dataset")
    tokenizer = save_tiny_tokenizer(out / "tokenizer")
    made = make_token_set(
        out / "data",
        num_samples=SAMPLES,
        sources_per_part=PER_PART,
        frames=FRAMES,
        tag=NAMES[2],
        tokenizer=load_tokenizer(str(tokenizer)),
    )
    write_record(Path(str(made.path)) / TOKENIZER_PLACE, TokenizerPlace(folder=str(tokenizer)))
    return out / "data"


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return opened(folder)


def opened(folder: Path) -> Site:
    site = dataset_site(folder)
    assert site is not None
    return site


def film(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_overview_lists_what_there_is(site: Site, folder: Path) -> None:
    shown = page(site)
    assert f"{SAMPLES} samples with {SAMPLES * FRAMES} stored frames" in shown.text
    assert str(folder) in shown.text and "test-v2" in shown.text and "4x4" in shown.text
    assert "samples?label=0" in shown.links and "sample?part=2&row=1" in shown.links


def test_links_lead_to_pages(site: Site) -> None:
    """Three of each kind."""
    links: dict[str, set[str]] = {}
    for name, query in (("", ""), ("sample", "part=1&row=0")):
        for link in page(site, name, query).links:
            target, _, parameters = link.partition("?")
            links.setdefault(target.removeprefix("."), set()).add(parameters)
    assert links.keys() >= {"", "samples", "rejected", "sample", "thumb", "frames", "view"}
    for target, found in links.items():
        for parameters in sorted(found)[:3]:
            assert site.answer(target, parameters).status == 200, (target, parameters)


def test_samples_by_class_name_and_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def places(query: str) -> list[str]:
        return [link for link in page(site, "samples", query).links if link.startswith("sample?")]

    assert len(places("")) == SAMPLES
    assert places("label=1") == [f"sample?part={n // PER_PART}&row={n % PER_PART}" for n in range(1, SAMPLES, 2)]
    assert places("label=none") == [] and places("name=%3Cimg") == places("")
    assert places("name=0009.mp4") == ["sample?part=2&row=1"] and places("name=.*") == []
    monkeypatch.setattr(dataset_pages, "TILES", 4)
    assert len(places("page=0")) == 4 and len(places("page=2")) == 2 and places("page=3") == []
    links = page(site, "samples", "page=1&label=all&name=mp4").links
    assert {"samples?label=all&name=mp4&page=0", "samples?label=all&name=mp4&page=2"} <= set(links)


def test_a_sample_is_shown_with_its_views_and_tokens(site: Site) -> None:
    shown = page(site, "sample", "part=1&row=3")
    assert f"{NAMES[2]}0007.mp4" in shown.text and "16 of 20 stored frames" in shown.text
    assert "View 1:" in shown.text and "tokens decoded" in shown.text
    assert {"sample?part=1&row=2", "sample?part=2&row=0"} <= set(shown.links)
    assert film(picture(site, "thumb", "part=1&row=3")).size == (160, 160)
    frames = film(picture(site, "frames", "part=1&row=3"))
    assert frames.size == (256, 192) and frames.n_frames == 16
    assert film(picture(site, "frames", "part=1&row=3&still=1")).n_frames == 1
    view = film(picture(site, "view", "part=1&row=3&set=0&view=1"))
    assert view.size == (256 + 2 * 192 + 2 * 6, 192) and view.n_frames == 16


@pytest.mark.parametrize("kind", STRATEGIES)
def test_masks_are_those_of_pretraining(site: Site, kind: str) -> None:
    answer = site.answer("masks", f"part=0&row=0&set=0&view=0&kind={kind}&ratio=60&min_block=2&seed=7")
    html = answer.body.decode()
    clip_THWC = np.zeros((16, 64, 64, 3), np.uint8) if kind != "frame_diff" else None
    assert html.count("data:image/webp") == 16
    if clip_THWC is not None:
        mask_THW = draw_mask(STRATEGIES[kind](0.6, 2), rng_for("viz", 7, kind), (8, 4, 4), clip_THWC)
        assert f"{kind}: {mask_THW.mean():.1%} of 128 positions hidden; 8 tubelets of 2 frames" in html
    other = site.answer("masks", f"part=0&row=0&set=0&view=0&kind={kind}&ratio=20&min_block=2&seed=7")
    assert other.body != answer.body


@pytest.mark.parametrize(
    ("name", "query", "status"),
    [
        ("sample", "", 400),
        ("sample", "part=../..&row=0", 400),
        ("sample", "part=3&row=0", 404),
        ("sample", "part=2&row=2", 404),
        ("thumb", "part=0&row=99999999999", 400),
        ("view", "part=0&row=0&set=1&view=0", 404),
        ("view", "part=0&row=0&set=0&view=2", 404),
        ("view", "part=0&row=0&set=test-v2&view=0", 400),
        ("masks", "part=0&row=0&set=0&view=0&kind=../x", 400),
        ("masks", "part=0&row=0&set=0&view=0&ratio=100", 400),
        ("masks", "part=0&row=0&set=0&view=0&min_block=17", 400),
        ("samples", "label=2", 400),
        ("frames/part-00000", "", 404),
        ("../dataset.json", "", 404),
    ],
)
def test_no_query_names_a_file(site: Site, name: str, query: str, status: int) -> None:
    page(site, name, query, status)


def test_without_a_tokenizer_tokens_are_not_decoded(tmp_path: Path) -> None:
    make_token_set(tmp_path, num_samples=2, frames=1, kind="image")
    site = opened(tmp_path)
    assert "tokens are not decoded" in page(site, "sample", "part=0&row=0").text
    assert film(picture(site, "view", "part=0&row=0&set=0&view=0")).size == (256 + 192 + 6, 192)
    assert "one frame" in site.answer("masks", "part=0&row=0&set=0&view=0&kind=block").body.decode()


def test_rejected_sources_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = ["empty-file", NAMES[0]]
    parts = [
        [Rejected(f"{part}-{n}{NAMES[2]}", None, "open", reasons[n % 2], NAMES[1], 1) for n in range(5)]
        for part in (0, 1)
    ]
    items = [SourceItem(source=row.source, kind="video") for rows in parts for row in rows]
    plan = Plan(
        dataset="folder",
        split="train",
        classes=(),
        pool=PoolSpec(stride=1, phase="zero", max_frames=8, short_side_px=72),
        seed=0,
        sources_per_part=5,
        num_sources=10,
        sources_digest=sources_digest(items),
    )
    write_plan(tmp_path / "frames", plan, items)
    none: list[FrameSample] = []
    commits = [write_frame_part(tmp_path / "frames", part, none, rows, plan) for part, rows in enumerate(parts)]
    write_frame_manifest(tmp_path / "frames", plan, commits)
    site = opened(tmp_path)
    assert "10 sources rejected" in page(site).text and "rejected?reason=empty-file" in page(site).links
    page(site, "samples")
    monkeypatch.setattr(dataset_pages, "REJECTED", 4)
    monkeypatch.setattr(dataset_pages, "PARTS_AT_ONCE", 1)
    page(site, "rejected", "part=../x", 400)
    seen, link = [], "rejected?reason=empty-file&part=0&skip=0"
    for _ in range(9):
        shown = page(site, *link.split("?", 1))
        seen += re.findall(r"\d-\d(?=<img)", shown.text)
        following = [each for each in shown.links if each.startswith("rejected?")]
        if not following:
            break
        link = following[0]
    assert seen == [f"{part}-{n}" for part in (0, 1) for n in (0, 2, 4)]


def test_a_damaged_dataset_is_one_page_and_the_next_one_is_shown(tmp_path: Path) -> None:
    tokens = make_token_set(tmp_path, num_samples=6, sources_per_part=2, frames=4)
    site = opened(tmp_path)
    jpegs = tmp_path / "frames" / part_name(0) / "frames.zarr"
    shard = max((path for path in jpegs.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:100])
    assert "This cannot be shown" in page(site, "sample", "part=0&row=0", 500).text
    path = Path(str(tokens.path_of(1)))
    path.write_bytes(b"PAR1")
    assert "Parquet" in page(site, "sample", "part=1&row=0", 500).text
    page(site, "sample", "part=2&row=1")
    (tmp_path / "frames" / "dataset.json").unlink()
    assert "dataset.json" in page(opened(tmp_path), "", "", 500).text


def test_other_paths_are_no_dataset(tmp_path: Path) -> None:
    assert dataset_site(tmp_path) is None
    (tmp_path / "frames").mkdir()
    with pytest.raises(UserError, match="leave out `clips`"):
        dataset_site(tmp_path, clips="x")
    page(opened(tmp_path), "", "", 500)
