"""A tokenizer from outside the tree: docs/how-to/add-a-tokenizer.md's package, broken plug-ins and clashes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers import families, load_tokenizer
from bevt_core.tokenizers.description import read_description
from bevt_core.tokenizers.inspection import tokenizer_info
from bevt_core.tokenizers.published.convert import convert_checkpoint
from pipeline.check.verify import verify
from pipeline.job.run import tokenize
from pipeline.look.sample import inspect_dataset
from schemas.errors import UserError
from tests.support.builders import make_token_set
from tests.support.frames import noise_frames
from tests.support.inline_jobs import without_ray
from tests.support.media import write_image
from tests.support.plugins import install
from tests.support.tiny_jobs import tiny_recipe

REPO = Path(__file__).parents[2]
PAGE = REPO / "docs" / "how-to" / "add-a-tokenizer.md"
Installed = Callable[..., Path]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """Install a package where Python finds it, until the test ends."""

    def make(name: str, entry_points: dict[str, str], files: dict[str, str]) -> Path:
        folder = install(tmp_path / name, name, entry_points, files)
        monkeypatch.syspath_prepend(folder)
        return folder

    before = set(sys.modules)
    yield make
    families._plugin_family.cache_clear()
    for module in set(sys.modules) - before:
        if module.startswith("bevt_patches"):
            del sys.modules[module]


def page_package() -> tuple[dict[str, str], dict[str, str]]:
    """The entry points and the files that the page shows."""
    blocks = re.findall(r"```(?:python|toml)\n# ([\w./]+)[^\n]*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    files = {"bevt_patches/__init__.py": ""}
    for path, text in blocks:
        files[path] = files.get(path, "") + text
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    return project["entry-points"]["bevt.tokenizers"], files


def published_file(path: Path, **extra: torch.Tensor) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "encoder.proj.weight": (8, 3, 8, 8),
        "encoder.proj.bias": (8,),
        "decoder.proj.weight": (8, 3, 8, 8),
        "decoder.proj.bias": (3,),
        "quantize.embedding.weight": (32, 8),
        "loss.discriminator.weight": (4, 4),
    }
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    torch.save({"state_dict": state | extra}, path)
    return path


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text().splitlines()) < 150


def test_the_tokenizer_of_the_page_makes_and_checks_a_token_set(installed: Installed, tmp_path: Path) -> None:
    installed("bevt-patches", *page_package())
    folder = tmp_path / "patches"
    stored = convert_checkpoint("patches", published_file(tmp_path / "patches.ckpt"), folder, input_px=32)
    assert (stored.kind, stored.grid, stored.sizes.vocab_size) == ("patches", (4, 4), 32)
    assert read_description(folder) == stored
    assert "not checked on the published file" in (folder / "CARD.md").read_text()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(noise_frames(3))).shape == (3, 32, 32, 3)

    for number in range(4):
        write_image(tmp_path / "raw" / "x" / f"{number}.png", np.full((40, 48, 3), 60 * number, np.uint8))
    recipe = tiny_recipe(tmp_path / "raw", tmp_path / "out", folder, "views.crop_px=32")
    with without_ray():
        tokenize(recipe)
    made = TokenSet(next((tmp_path / "out" / "tokens").iterdir()))
    assert made.manifest.tokenizer == tokenizer.identity()
    assert verify(tmp_path / "out", sample=4)["problems"] == []


def test_without_its_decoder_it_is_drawn_as_mean_patches(
    installed: Installed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry_points, files = page_package()
    files["bevt_patches/network.py"] = files["bevt_patches/network.py"].replace("*parts)", "parts[0], None)")
    installed("bevt-patches", entry_points, files)
    convert_checkpoint("patches", published_file(tmp_path / "patches.ckpt"), tmp_path / "patches", input_px=32)
    tokenizer = load_tokenizer(tmp_path / "patches")
    assert not tokenizer.can_decode
    token_set = make_token_set(tmp_path / "set", num_samples=2, tokenizer=tokenizer)
    report = inspect_dataset(tmp_path / "set", picture=tmp_path / "sheet.png", tokenizer=str(tmp_path / "patches"))
    assert Image.open(report["picture"]).width == 12 * 112  # four frames: stored, as a view, and as tokens
    assert "patches has no decoder; a token is drawn as the mean of its patches" in capsys.readouterr().err
    info = tokenizer_info(str(tmp_path / "patches"), token_set.frames.path, 4)
    assert info["psnr_db"] is info["ssim"] is None and info["perplexity"] > 1


def test_a_tensor_that_is_unknown_or_missing_is_named(installed: Installed, tmp_path: Path) -> None:
    installed("bevt-patches", *page_package())
    path = published_file(tmp_path / "more.ckpt", **{"encoder.mid.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"more\.ckpt: encoder\.mid\.weight: not a key of a patches checkpoint"):
        convert_checkpoint("patches", path, tmp_path / "out")
    state = torch.load(path)["state_dict"]
    torch.save({key: value for key, value in state.items() if "mid" not in key and "bias" not in key}, path)
    with pytest.raises(UserError, match=r"more\.ckpt: its tensors do not fit kind 'patches': (.|\n)*bias"):
        convert_checkpoint("patches", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = {
    "not importable": ("gone:X", {}, r"cannot be imported: ModuleNotFoundError: No module named 'gone'"),
    "fails": ("bad_plugin:X", {"bad_plugin.py": "1 / 0"}, "cannot be imported: ZeroDivisionError"),
    "another object": ("bad_plugin:X", {"bad_plugin.py": "X = 3"}, "is a int, expected a .*Family"),
}


@pytest.mark.parametrize(("reference", "files", "message"), BAD.values(), ids=BAD.keys())
def test_a_broken_plugin_is_one_error_with_its_distribution(
    installed: Installed, reference: str, files: dict[str, str], message: str
) -> None:
    installed("bad-kinds", {"bad": reference}, files)
    with pytest.raises(
        UserError, match=rf"^tokenizer plug-in 'bad' of bad-kinds 1\.0 \({reference}\) {message}"
    ) as caught:
        families.family_of("bad")
    assert "\n" not in str(caught.value)
    sys.modules.pop("bad_plugin", None)


def test_two_plugins_of_a_kind_are_refused(installed: Installed) -> None:
    installed("first", {"mine": "one:X"}, {})
    assert "mine" in families.known_kinds()
    installed("second", {"mine": "two:X"}, {})
    with pytest.raises(UserError, match=r"two plug-ins add the kind 'mine': .*second 1\.0 .* first 1\.0 .*uninstall"):
        families.family_of("mine")
    assert families.family_of("dalle").kind == "dalle"  # looks at no plug-in


def test_a_plugin_with_the_name_of_a_built_in_kind_is_refused(installed: Installed) -> None:
    installed("third", {"dalle": "three:X"}, {})
    assert families.family_of("dalle").kind == "dalle"
    with pytest.raises(UserError, match=r"'dalle' of third 1\.0 \(three:X\) has the name of a built-in kind"):
        families.family_of("unheard-of")


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"kind of tokenizer 'pecoo'.*'peco'.*known: dalle, dvae.*bevt\.tokenizers"):
        families.family_of("pecoo")


DESCRIBED = {
    "format_version": 1,
    "kind": "patches",
    "sizes": {"side": 8, "vocab_size": 32},
    "input_px": 32,
    "encoder_sha256": "",
    "decoder_sha256": None,
    "origin": {},
}


def test_a_new_process_finds_the_plugin_and_needs_torch_for_no_description(tmp_path: Path) -> None:
    """As Ray's workers and loader processes do: nothing is handed to them."""
    folder = install(tmp_path / "site", "bevt-patches", *page_package())
    (tmp_path / "tokenizer.json").write_text(json.dumps(DESCRIBED))
    code = (
        "import sys; from pathlib import Path; from bevt_core.tokenizers import PRETRAINED, families;"
        "from bevt_core.tokenizers.description import read_description;"
        "read_description(PRETRAINED / 'dvae-small');"
        "assert not families._plugin_family.cache_info().misses;"
        f"assert read_description(Path({str(tmp_path)!r})).grid == (4, 4);"
        "assert 'torch' not in sys.modules"
    )
    path = os.pathsep.join([str(folder), str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
