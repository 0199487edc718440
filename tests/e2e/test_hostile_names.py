"""Names and credentials of strangers through the whole chain: files, tokens, runs, reports, tables, the terminal."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

import cli
from bevt_core.console.inert import markdown_text, one_line, text_of_csv
from bevt_core.storage.descriptions import RECORD
from tests.support.hostile_names import NAMES, PageCheck, controls_in, formulas_in
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from trainer.runs.directory import read_run

CLASSES = sorted(NAMES[:2])
TITLE = NAMES[2]
HOSTILE_RUN = "<b>[red]`x`$y$\x1b[31m_"
SECRETS = {"HF_TOKEN": "planted-in-environment-1", "option": "planted-in-option-2", "url": "planted-in-url-3"}
TOKENIZE = [
    "sources_per_part=4", "min_parts=1", "views.num_views=2", "pool.max_frames=16", "decode_timeout_s=10",
]  # fmt: skip
FINETUNE = [
    "encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "encoder.window=[2,4,4]",
    "loop.num_workers=0", "loop.max_steps=1", "global_batch=4", "sampling.frames=4", "val_share=0.34",
    f"title={json.dumps(TITLE)}",
]  # fmt: skip


def bevt(*arguments: object) -> str:
    """A command as the console script runs it; returns what it prints."""
    printed = io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stdout(printed), redirect_stderr(printed):
        cli.app([str(argument) for argument in arguments])
    assert not ended.value.code, printed.getvalue()
    return printed.getvalue()


def settings(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@dataclass(frozen=True)
class Chain:
    """What the commands wrote, and what they printed."""

    place: Path
    printed: str

    def texts(self, *suffixes: str) -> dict[Path, str]:
        return {path: path.read_text() for path in self.place.rglob("*") if path.suffix in suffixes and path.is_file()}


@pytest.fixture(scope="module")
def chain(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Videos of two classes with such names, and all that the commands make of them."""
    place = tmp_path_factory.mktemp("hostile")
    raw, data, run = place / "raw", place / "data", place / HOSTILE_RUN
    for label, name in enumerate(CLASSES):
        for clip in range(3):
            write_video(raw / name / f"{clip}{NAMES[3 + label]}.mp4", moving_frames(8, seed=clip))
    (raw / CLASSES[0] / f"{NAMES[1]}.mp4").write_bytes(b"no video")
    typed = ["bevt", "--api-key", SECRETS["option"], f"https://me:{SECRETS['url']}@host/x", SECRETS["HF_TOKEN"]]
    with pytest.MonkeyPatch.context() as patch, without_ray():
        patch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        patch.setattr("sys.argv", typed)
        video = ["--dataset", "folder", "--recipe", "nano_video", "--root", raw]
        printed = bevt("tokenize", *video, "--out", data, "--tokenizer", tiny_tokenizer, *settings(TOKENIZE))
        sample = pq.read_table(data / "frames" / "part-00000" / "index.parquet")["sample_id"][0].as_py()
        printed += bevt("inspect", data, "--sample", sample)
        printed += bevt("finetune", "folder", "--frames", data / "frames", "--out", run, *settings(FINETUNE))
        printed += bevt("evaluate", run, "--split", "val", "--out", place / "evaluation")
        printed += bevt(
            "analyse", "temporal", run, "--frames", data / "frames", "--out", place / "temporal", "--seeds", "1"
        )
        printed += bevt("report", run, place / "evaluation", "--out", place / "paper")
        printed += bevt("export", run, "--evaluation", place / "evaluation", "--out", place / "hub")
        printed += bevt("predict", run, raw)
        printed += bevt("runs", "list", place)
        printed += bevt("runs", "show", run)
        printed += bevt("runs", "compare", run, "--out", place / "curves.png")
        printed += bevt("viz", "attention", run, "--sample", next(raw.rglob("1*.mp4")), "--out", place / "attention")
    yield Chain(place, printed)


def test_the_terminal_shows_them_as_text(chain: Chain) -> None:
    assert not controls_in(chain.printed)
    assert not any(line.startswith("error: ") for line in chain.printed.splitlines())
    for name in (*CLASSES, TITLE, HOSTILE_RUN):
        assert one_line(name) in chain.printed


def test_pages_obey_their_policy(chain: Chain) -> None:
    pages = chain.texts(".html")
    assert {path.parent.name for path in pages} == {"data", "dvae-v2", "paper"}, chain.printed
    for html in pages.values():
        page = PageCheck(html)
        assert page.faults == [] and not controls_in(html)
    assert one_line(NAMES[1]) in "".join(PageCheck(pages[chain.place / "data" / "report.html"]).text)


def test_cards_have_no_markup_of_theirs(chain: Chain) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    cards = chain.texts(".md")
    assert {path.parent.name for path in cards} == {"paper", "hub"}
    for text in cards.values():
        assert not controls_in(text)
        for token in parser.parse(text):
            assert token.type != "html_block"
            for inner in token.children or []:
                ours = inner.content in (
                    "<code>",
                    "</code>",
                    "bevt",
                    "bevt evaluate",
                    "license:",
                    '"hf://ORG/NAME"',
                    '"."',
                )
                assert inner.type in ("text", "text_special", "softbreak") or ours, inner
    assert f"# {markdown_text(TITLE)}\n" in cards[chain.place / "hub" / "README.md"]


def test_tables_compute_nothing_and_give_names_back(chain: Chain) -> None:
    tables = {path: list(csv.reader(io.StringIO(text))) for path, text in chain.texts(".csv").items()}
    assert {path.name for path in tables} >= {"per_class.csv", "confusion.csv", "temporal_per_class.csv", "report.csv"}
    for path, rows in tables.items():
        assert len({len(row) for row in rows}) == 1
        assert not any(formulas_in(row) for row in rows) and not controls_in(path.read_text())
    rows = tables[chain.place / "evaluation" / "per_class.csv"]
    assert [text_of_csv(row[0]) for row in rows[1:]] == CLASSES


def test_logs_and_records_are_data(chain: Chain) -> None:
    for path, text in chain.texts(".json", ".jsonl", ".yaml").items():
        assert not {c for c in text if c < " " and c != "\n"}, path
    assert read_run(chain.place / HOSTILE_RUN)[0].title == TITLE
    events = [path.read_bytes() for path in chain.place.rglob("*tfevents*")]
    assert events and not any(name.encode() in event for event in events for name in (*CLASSES, TITLE, HOSTILE_RUN))


def test_no_file_has_a_credential(chain: Chain) -> None:
    for path in chain.place.rglob("*"):
        for secret in SECRETS.values():
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert not any(secret in chain.printed for secret in SECRETS.values())
    command = json.loads((chain.place / HOSTILE_RUN / RECORD).read_text())["command"]
    assert command == "bevt --api-key *** 'https://***@host/x' ***"


def test_places_and_recipes_with_credentials_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """They would be recorded; what is refused is not quoted."""
    url = "s3://me:planted-in-url-3@bucket/set"
    for arguments in (
        ["train", "image", "--recipe", "nano_image", "--image-tokens", url, "--out", str(tmp_path / "run")],
        ["tokenize", "--dataset", "folder", "--root", url, "--out", str(tmp_path / "out")],
        ["finetune", "folder", "--frames", url, "--out", str(tmp_path / "run")],
        ["verify", url],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.app(arguments)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "s3://***@bucket/set" in said and "AWS_" in said and "planted" not in said
    assert list(tmp_path.iterdir()) == []
