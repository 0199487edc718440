"""Datasets that mix several data sets: prefixes, labels that are kept apart, weights, and the same content named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from pipeline.check.repair import repair
from pipeline.check.verify import verify
from pipeline.growth.extend import extend
from pipeline.growth.mix import Mix, MixedRoot, read_mix, tokenize_mix
from schemas.errors import UserError
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_image, write_video
from tests.support.pretraining import dataset_of
from tests.support.tiny_jobs import digests, save_tiny_tokenizer, tiny_recipe
from trainer.clips.sources import StoreClips


class Mixed:
    """Two data sets with the class `x` and one file in common, and the dataset that mixes them."""

    def __init__(self, place: Path) -> None:
        self.place, self.out = place, place / "out"
        for i in range(4):
            write_video(place / f"a/{'xy'[i % 2]}/{i}.mp4", moving_frames(4, 64, 64, seed=i))
        for i in range(2):
            write_video(place / f"b/{'xz'[i % 2]}/{i}.mp4", moving_frames(4, 64, 64, seed=10 + i))
        shutil.copy(place / "a/x/0.mp4", place / "b/x/again.mp4")
        sources = [{"prefix": name, "dataset": "folder", "root": str(place / name), "split": "all"} for name in "ab"]
        (place / "mix.yaml").write_text(json.dumps({"sources": [sources[0], sources[1] | {"weight": 2.5}]}))
        self.recipe = tiny_recipe(place / "unused", self.out, save_tiny_tokenizer(place / "tokenizer"), "token_set=t")
        self.mix: Mix = read_mix(place / "mix.yaml")

    def make(self) -> dict[str, object]:
        return tokenize_mix(self.recipe, self.mix, progress="off")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    with without_ray():
        made = Mixed(tmp_path_factory.mktemp("mixed"))
        made.make()
        yield made


def test_ids_classes_and_weights_are_kept_apart(mixed: Mixed) -> None:
    store = FrameStore(mixed.out / "frames")
    assert store.manifest.classes == ("a/x", "a/y", "b/x", "b/z")
    ids = store.samples["sample_id"].to_pylist()
    assert sorted(ids) == [f"a/{'xy'[i % 2]}/{i}.mp4" for i in (0, 2)] + [f"a/y/{i}.mp4" for i in (1, 3)] + [
        "b/x/0.mp4",
        "b/x/again.mp4",
        "b/z/1.mp4",
    ]
    labels = dict(zip(ids, store.samples["label"].to_pylist(), strict=True))
    assert (labels["a/x/0.mp4"], labels["b/x/0.mp4"], labels["b/z/1.mp4"]) == (0, 2, 3)
    assert [(each.prefix, each.weight) for each in store.manifest.mix] == [("a", 1.0), ("b", 2.5)]
    weights = dataset_of(TokenSet(mixed.out / "tokens/t")).part_weights
    assert weights is not None and weights.tolist() == [1.0, 2.5]
    assert verify(mixed.out, deep=True)["ok"]


def test_made_again_and_repaired_from_each_root(mixed: Mixed) -> None:
    whole = digests(mixed.out)
    summary = mixed.make()
    assert digests(mixed.out) == whole
    assert [more["new"] for more in summary["more"].values()] == [0, 0]  # type: ignore[attr-defined]
    for part, root in ((0, "a"), (1, "b")):
        (mixed.out / f"frames/part-0000{part}/index.parquet").write_bytes(b"x")
        repair(mixed.out, mixed.place / root, progress="off")
        assert digests(mixed.out) == whole


def test_the_same_content_is_named(mixed: Mixed, tmp_path: Path) -> None:
    shutil.copytree(mixed.out, tmp_path / "out")
    shutil.copytree(mixed.place / "b", tmp_path / "c")
    roots = {name: mixed.place / name for name in "ab"}
    found = extend(tmp_path / "out", tmp_path / "c", prefix="c", roots=roots, progress="off")["same_content"]
    assert {"source": "c/x/again.mp4", "same_as": "a/x/0.mp4"} in found and len(found) == 3


def test_a_killed_mix_goes_on_with_each_root(mixed: Mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second data set has its plan, but no part yet: its files are not looked for below the first root."""
    whole = digests(mixed.out)
    for name in ("frames/part-00001", "tokens/t/part-00001.json", "frames/dataset.json", "tokens/t/dataset.json"):
        path = mixed.out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    mixed.make()
    assert digests(mixed.out) == whole


def test_an_unfinished_data_set_is_never_read_below_the_root_of_another(tmp_path: Path) -> None:
    """Files of the same names are below each root, and the second data set comes before the unfinished third."""
    for seed, name in enumerate("abc"):
        write_image(tmp_path / name / "x/1.jpg", moving_frames(1, 64, 64, seed=seed)[0])
    sources = [{"prefix": name, "dataset": "folder", "root": str(tmp_path / name)} for name in "abc"]
    mix, out = Mix.model_validate({"sources": sources}), tmp_path / "out"
    recipe = tiny_recipe(tmp_path, out, Path("unused"))
    with without_ray():
        tokenize_mix(recipe, Mix(sources=mix.sources[:2]), frames_only=True, progress="off")
        before = (out / "frames/dataset.json").read_bytes()
        tokenize_mix(recipe, mix, frames_only=True, progress="off")
        whole = digests(out)
        (out / "frames/dataset.json").write_bytes(before)
        shutil.rmtree(out / "frames/part-00002")
        with pytest.raises(UserError, match="parts of c still have to be decoded, which have roots of their own"):
            extend(out, tmp_path / "b", prefix="b", progress="off")
        tokenize_mix(recipe, mix, frames_only=True, progress="off")
    assert digests(out) == whole


def test_what_changed_since_the_mix_was_made(mixed: Mixed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """New files of every data set are added; other settings are refused; a root is checked before the work."""
    first, second = mixed.mix.sources
    out = tmp_path / "out"
    shutil.copytree(mixed.out, out)
    recipe = mixed.recipe.model_copy(update={"out": str(out)})
    whole = digests(out)

    def make(*sources: MixedRoot, overwrite: bool = False) -> dict[str, Any]:
        return tokenize_mix(recipe, Mix(sources=sources), progress="off", overwrite=overwrite)

    with pytest.raises(UserError, match=r"its data set 'b' has weight 2\.5, not 3\.0; give another `out`"):
        make(first, second.model_copy(update={"weight": 3.0}))
    with pytest.raises(UserError, match=r"the root .*none of 'c': no such folder"):
        make(first, second, MixedRoot(prefix="c", dataset="folder", root=str(tmp_path / "none")))
    make(first)
    assert "also has the data set 'b', which the mix does not name" in capsys.readouterr().err
    assert digests(out) == whole
    shutil.copytree(mixed.place / "a", tmp_path / "a")
    (tmp_path / "a/x/new.mp4").write_bytes((mixed.place / "b/x/0.mp4").read_bytes())
    added = make(first.model_copy(update={"root": str(tmp_path / "a")}), second)["more"]
    assert {name: more["new"] for name, more in added.items()} == {"b": 0, "a": 1}
    assert make(first, overwrite=True)["first"]["parts"] == 1 and verify(out)["ok"]


def test_labels_of_several_data_sets_are_not_trained_on(mixed: Mixed) -> None:
    clips = StoreClips(mixed.out / "frames")
    with pytest.raises(UserError, match="mixes a, b, whose classes are kept apart; choose the clips of one"):
        _ = clips.classes
    of_one = StoreClips.of_sources(mixed.out / "frames", ["b/x/0.mp4", "b/z/1.mp4"])
    assert of_one.classes[2] == "b/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "sources"),
        ("sources: [{prefix: a, dataset: folder, root: x}, {prefix: a, dataset: folder, root: y}]", "'a' occurs twice"),
        ("sources: [{prefix: a, dataset: foldr, root: x}]", "no dataset 'foldr'; did you mean"),
        ("sources: [{prefix: a/b, dataset: folder, root: x}]", "prefix"),
        ("sources: [{prefix: a, dataset: folder, root: x, weight: 0}]", "weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_mix(tmp_path / "mix.yaml")


def test_prefixes_cannot_be_added_later(mixed: Mixed) -> None:
    with pytest.raises(UserError, match="its sample ids have a prefix, so those of new sources must have a prefix too"):
        extend(mixed.out, mixed.place / "b", progress="off")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"prefix": "c/d"}, r"prefix: expected a name of letters.* \(given 'c/d'\)"), ({"weight": 0}, "weight: expected")],
)
def test_a_prefix_or_weight_that_is_none_writes_no_plan(mixed: Mixed, options: dict[str, object], error: str) -> None:
    """A plan with one could not be read, nor be removed by a command."""
    whole = digests(mixed.out)
    with pytest.raises(UserError, match=error):
        extend(mixed.out, mixed.place / "b", progress="off", **{"prefix": "c", **options})  # type: ignore[arg-type]
    assert digests(mixed.out) == whole


def test_a_repeated_sample_has_another_clip(mixed: Mixed) -> None:
    data = dataset_of(TokenSet(mixed.out / "tokens/t"), clip_frames=2, tubelet=1)
    masks = [data[0, 6 + repetition * len(data)]["mask"].numpy() for repetition in range(4)]
    assert not all(np.array_equal(masks[0], mask) for mask in masks)
    assert data[0, 6 + len(data)]["sample_id"] == data[0, 6]["sample_id"]


def test_the_command(mixed: Mixed, tmp_path: Path) -> None:
    """Through the command line: the dataset is that of `tokenize_mix`, and options for one root are refused."""
    small = ["sources_per_part=4", "min_parts=1", "views.num_views=2", "pool.max_frames=6", "token_set=t"]
    command = ["tokenize", "--dataset", str(mixed.place / "mix.yaml"), "--out", str(tmp_path / "out"), "--json"]
    command += ["--recipe", "nano_video", "--tokenizer", str(mixed.place / "tokenizer")]
    command += [word for setting in (*small, "decode_timeout_s=10") for word in ("--set", setting)]
    result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["first"]["parts"] == 1 and summary["more"]["b"]["parts"] == 2
    whole = {name: sha for name, sha in digests(mixed.out).items() if not name.endswith(".html")}
    assert digests(tmp_path / "out") == whole
    refused = CliRunner().invoke(cli.app, [*command, "--root", "x"])
    assert "--root: " in str(refused.exception) and "names several data sets" in str(refused.exception)
    more = ["extend", str(tmp_path / "out"), "--root", str(mixed.place / "a"), "--dataset", "folder", "--prefix", "a"]
    again = CliRunner().invoke(cli.app, [*more, "--split", "all", "--json"], catch_exceptions=False)
    assert json.loads(again.stdout.splitlines()[-1])["known"] == 4
