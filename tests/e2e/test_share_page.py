"""The commands and the example of docs/how-to/share-on-the-hub.md run in order, against a server like the Hub."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.weights.model_files import save_weights
from tests.conftest import REPO
from tests.support.builders import make_token_set
from tests.support.hub_server import TOKEN, forget, hub_server
from tests.support.media import moving_frames, write_video
from trainer import load_finetune_recipe
from trainer.testing.classifier_card import CARD, card_of

BLOCK = re.compile(r"```(bash|python)\n(.*?)```", flags=re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_token_set(tmp_path / "datasets" / "mine", num_samples=4, sources_per_part=2, frames=2)
    shutil.copytree("datasets/mine/frames", "datasets/theirs/frames")
    for number, name in enumerate(["left", "left", "right", "right"]):
        write_video(tmp_path / "videos" / name / f"{number}.mp4", moving_frames(36, 80, 96, seed=number))
    shutil.copy("videos/left/0.mp4", "clip.mp4")
    Path("runs/mine").mkdir(parents=True)
    save_weights(Path("runs/mine/weights.safetensors"), build_classifier(**SWIN_SIZES["nano"], num_classes=2))
    card = card_of(load_finetune_recipe("nano_finetune"), ("left", "right"))
    Path("runs/mine", CARD).write_text(card.model_dump_json())

    blocks = BLOCK.findall((REPO / "docs" / "how-to" / "share-on-the-hub.md").read_text())
    assert [kind for kind, _ in blocks] == ["bash", "bash", "python", "bash", "bash", "python"]
    blocks.pop()  # needs `datasets`: tests/integration/test_table_readers.py
    with hub_server(tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for kind, text in blocks:
            for command in text.splitlines() if kind == "bash" else ():
                words = shlex.split(command)
                words += ["--set", "global_batch=2"] if words[1] == "finetune" else []  # as many as there are
                CliRunner().invoke(cli.app, words[1:], catch_exceptions=False)
                forget()
                if "--push-to" in words:
                    refs = hub.repositories["model", "my-lab/mine"].refs
                    refs["v1"] = refs["main"]
            if kind == "python":
                exec(text.replace('"."', repr(str(REPO))), {})
    for name in ("copy", "theirs"):
        assert Path("datasets", name, "tokens", "test-v2", "dataset.json").is_file()
