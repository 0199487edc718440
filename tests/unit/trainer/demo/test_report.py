"""The demo's report, from datasets and runs made by tests."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from bevt_core.storage.files import write_record
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.training import DvaeTrainingModule
from schemas.tokens import TOKENIZER_PLACE, TokenizerPlace
from tests.support.builders import make_token_set
from tests.support.hostile_names import NAMES, PageCheck, controls_in
from tests.support.media import moving_frames, write_video
from tests.support.pretraining import pretraining_run
from trainer.demo.report import POINTS, Accuracies, write_report

TOP1 = {
    "from scratch": {"normal": 0.352, "single-frame": 0.133, "shuffle": 0.164},
    "from bevt-nano": {"normal": 0.602, "single-frame": 0.125, "shuffle": 0.182},
}
TABLES = Accuracies(TOP1, classes=8, labelled_videos=64, test_videos=384)
STEPS = [("Store them", f"bevt tokenize {NAMES[0]}", 12.34), (NAMES[2], "bevt train", 60.0), ("Before", "bevt x", None)]
MAX_BYTES = 3_000_000


def write_metrics(run: Path, **values: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, **{name: value / (step + 1) for name, value in values.items()}} for step in range(90)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the demo leaves it: tokens of unlabelled videos, labelled and test videos, three runs."""
    out = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    sizes = DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=16, vocab_size=64)
    DvaeTrainingModule(sizes, "mse").save(out / "tokenizer", input_px=32, origin={"made_by": "a test"})
    options = {"num_samples": 4, "sources_per_part": 2, "frames": 4}
    made = make_token_set(out / "videos", tokenizer=load_tokenizer(str(out / "tokenizer")), **options)  # type: ignore[arg-type]
    write_record(Path(str(made.path)) / TOKENIZER_PLACE, TokenizerPlace(folder=str(out / "tokenizer")))
    pretraining_run(out / "runs" / "joint", made)
    Path(str(made.path)).rename(out / "videos" / "tokens" / "dvae-v2")
    make_token_set(out / "train", **options)  # type: ignore[arg-type]
    for name in ("pan_left", NAMES[0].replace("/", "")):
        write_video(out / "raw" / "test" / name / "0.mp4", moving_frames(6))
    write_metrics(out / "runs" / "joint", mvm_loss=6.0, mim_loss=5.0, mvm_acc=0.2, mim_acc=0.1)
    write_metrics(out / "runs" / "finetune-scratch", loss=2.0, val_top1=0.3)
    write_metrics(out / "runs" / "finetune-pretrained", loss=1.5, val_top1=0.6)
    return out


def pictures_of(html: str, tag: str) -> list[Image.Image]:
    found = re.findall(rf'<{tag} [^>]*"data:image/webp;base64,([^"]*)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_report_has_its_table_clips_curves_and_costs(demo: Path) -> None:
    path = write_report(demo, STEPS, TABLES)
    html = path.read_text()
    page = PageCheck(html)
    text = "".join(page.text)
    assert page.faults == [] and "Not shown" not in text and path.stat().st_size < MAX_BYTES
    assert not controls_in(html.replace("\n", ""))
    for share in (share for row in TOP1.values() for share in row.values()):
        assert f"{100 * share:.1f}\u2009%" in text
    assert "+25.0 points" in text and text.count("points") == 1 and "chance, 12.5%" in text
    assert "8 camera motions from 64 labelled clips, from scratch and from bevt-nano" in text
    assert "4 clips without labels" in text and "384 clips" in text
    moving = [getattr(picture, "n_frames", 1) for picture in pictures_of(html, "img")]
    assert moving == [4, 4, 4, 4, 1, 1, 1, 1], "predictions, classes, stored frames"
    assert [getattr(picture, "n_frames", 1) for picture in pictures_of(html, "source")] == [1] * 4
    assert pictures_of(html, "img")[0].size == (4 * 192 + 3 * 6, 192)
    assert html.count('<figure class="plot">') == 4 and html.count('<path class="curve s1"') == 4 * 2
    assert {path.count("L") + 1 for path in re.findall('class="curve s." d="(M4[^"]*)"', html)} == {POINTS}
    assert '<td class="n">12.3</td>' in html and "done earlier" in text and "2 commands in 1 min 12 s" in text
    assert not re.findall(r'(?:src|srcset|href)="(?!data:)', html) and "<script" not in html


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    html = write_report(tmp_path, [], TABLES).read_text()
    page = PageCheck(html)
    assert page.faults == []
    missing = [text for text in page.text if text.startswith("Not shown")]
    assert len(missing) == 7
    assert "runs/joint has not logged mvm_loss; runs/joint has not logged mim_loss" in "".join(missing)


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    write_metrics(tmp_path / "runs" / "finetune-scratch", loss=2.0)
    write_metrics(tmp_path / "runs" / "finetune-pretrained", loss=2.0)
    (tmp_path / "runs" / "finetune-pretrained" / "metrics.jsonl").write_text("<b>\n")
    html = write_report(tmp_path, [], TABLES).read_text()
    assert PageCheck(html).faults == [] and html.count('<path class="curve s0"') == 2
    assert "finetune-pretrained/metrics.jsonl, line 1" in html


def test_a_row_alone_has_no_difference(tmp_path: Path) -> None:
    tables = TABLES._replace(top1={"from <b>": TOP1["from scratch"]})
    html = write_report(tmp_path, STEPS, tables).read_text()
    assert "points" not in "".join(PageCheck(html).text) and "from &lt;b&gt;" in html
