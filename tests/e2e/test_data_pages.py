"""The commands of the pages about data run on tiny files in the layouts of the mirrors.

docs/how-to: kinetics-400.md, ssv2.md, diving48.md, imagenet.md, howto100m.md, your-own-videos.md.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from pipeline.sources import list_sources
from tests.conftest import REPO
from tests.support import data_roots
from tests.support.data_roots import ROOTS, own
from tests.support.inline_jobs import without_ray
from tests.support.listings import labels
from tests.support.tiny_jobs import save_tiny_tokenizer

PAGES = REPO / "docs" / "how-to"
BLOCK = re.compile(r"(<!-- not run: [^\n]*-->\n)?```bash\n(.*?)```", re.DOTALL)
FOLDERS = {"kinetics-400.md": "k400"}
SMALL = {
    "tokenize": ["views.num_views=2", "sources_per_part=4", "min_parts=1"],
    "train": ["loop.max_steps=2", "loop.num_workers=0", "streams.video.global_batch=2", "loop.picture_every=0"],
}


def commands_of(page: str) -> list[list[str]]:
    """The arguments of the `bevt` commands of a page that are not marked as not run."""
    text = (PAGES / page).read_text()
    scripts = [script.replace("\\\n", " ") for mark, script in BLOCK.findall(text) if not mark]
    return [shlex.split(line)[1:] for script in scripts for line in script.splitlines() if line.startswith("bevt ")]


def value_of(words: list[str], option: str, default: str | None = None) -> str | None:
    return words[words.index(option) + 1] if option in words else default


LABELS = {
    "kinetics-400.md": [
        {
            "train/0wR5jVB-WPk_000417_000427.mp4": "abseiling",
            "train/-3caPS4FHFI_000000_000010.mp4": "air drumming",
            "train/zumba/goneAAAAAAA_000005_000015.mp4": "zumba",
        }
    ],
    "ssv2.md": [
        {
            "20bn-something-something-v2/0.webm": "Holding something",
            "20bn-something-something-v2/1.webm": "Moving something up",
        }
    ],
    "diving48.md": [{"rgb/-mmq0PT-u8k_00155.mp4": "Back 15som 05Twis FREE", "rgb/b_1.mp4": "Back 2som 1Twis FREE"}],
    "imagenet.md": [
        {f"train/{wnid}/{wnid}_{i}.JPEG": wnid for wnid in ("n01440764", "n01443537") for i in (0, 1)},
        {"val/ILSVRC2012_val_00000001.JPEG": "n01440764", "val/ILSVRC2012_val_00000002.JPEG": "n01443537"},
    ],
    "howto100m.md": [{"videos/nVbIUDjzWY4.mp4": None, "videos/CTPAZ2euJ2Q.webm": None, "gone.mp4": None}],
}


@pytest.mark.parametrize("page", ROOTS)
def test_the_listed_sources_have_the_labels_of_the_annotations(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_roots, "video", lambda seed, *_: b"not opened" * (seed + 1))
    folder = tmp_path / FOLDERS.get(page, page[:-3])
    ROOTS[page](folder)
    found = []
    for words in commands_of(page):
        if words[0] == "scan":
            dataset, root, split = (value_of(words, name, "train") for name in ("--dataset", "--root", "--split"))
            listed = value_of(words, "--list")
            assert dataset is not None and split is not None and root == f"/data/{folder.name}"
            list_file = None if listed is None else Path(listed.replace("/data", str(tmp_path)))
            found.append(labels(list_sources(dataset, folder, split, list_file)))
    assert found == LABELS[page]


def run(words: list[str], root: Path) -> dict[str, Any]:
    """Run a command of a page, with `/data` below `root`, and return its JSON."""
    words = [word.replace("/data/", f"{root}/data/") for word in words]
    small = [part for override in SMALL.get(words[0], ()) for part in ("--set", override)]
    result = CliRunner().invoke(cli.app, [*words, *small, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("page", ROOTS)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ROOTS[page](tmp_path / "data" / FOLDERS.get(page, page[:-3]))
    save_tiny_tokenizer(tmp_path / "tokenizers/dalle")
    summaries: dict[str, list[dict[str, Any]]] = {}
    with without_ray():
        for words in commands_of(page):
            summaries.setdefault(words[0], []).append(run(words, tmp_path))
    assert all(summary["usable"] for summary in summaries["scan"])
    assert all(summary["rejected"] == 0 for summary in summaries["tokenize"])
    assert summaries["verify"][0]["ok"]


@pytest.mark.slow
def test_the_commands_of_the_page_about_own_videos_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """your-own-videos.md: the set is made, grows while a run reads it, and is mixed with others."""
    monkeypatch.chdir(tmp_path)
    own(tmp_path)
    for name in ("k400", "ssv2"):
        ROOTS[{"k400": "kinetics-400.md"}.get(name, f"{name}.md")](tmp_path / "data" / name)
    (tmp_path / "data/own").symlink_to(tmp_path / "videos")
    (tmp_path / "own.txt").write_text("left/0001.mp4 left\n")
    page = (PAGES / "your-own-videos.md").read_text()
    (mix,) = re.findall(r"```yaml\n# mix.yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mix.yaml").write_text(mix.replace("/data/", f"{tmp_path}/data/"))
    save_tiny_tokenizer(tmp_path / "tokenizers/tiny")
    monkeypatch.setenv("BEVT_TOKENIZERS", str(tmp_path / "tokenizers"))
    found: dict[str, dict[str, Any]] = {}
    with without_ray():
        for words in commands_of("your-own-videos.md"):
            if words[0] == "extend":  # a run has started, and then there are new files
                run([*TRAIN, "--set", "loop.checkpoint_every=1"], tmp_path)
                (tmp_path / "videos/right/0004.mp4").write_bytes(data_roots.video(9, tmp_path))
            if "mix.yaml" in words:
                words += ["--recipe", "laptop_video"]
            found[" ".join(words[:3])] = run(words, tmp_path)
    assert found["extend datasets/mine --root"]["new"] == 1
    mixed = found["tokenize --dataset mix.yaml"]
    assert (mixed["first"]["rejected"], sorted(mixed["more"])) == (1, ["own", "ssv2"])


TRAIN = shlex.split("train video --recipe laptop_video --video-tokens datasets/mine/tokens/dvae-v2 --out runs/mine")
