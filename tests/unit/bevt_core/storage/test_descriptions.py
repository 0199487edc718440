"""Descriptions of folders, and the errors that quote them when another kind was expected."""

import itertools
import re
from pathlib import Path

import pytest

import bevt_core.console.installation
import cli
from bevt_core.console.installation import install_command
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier
from bevt_core.storage.descriptions import RUNS, dataset_around, what_is
from bevt_core.storage.files import write_record
from bevt_core.tokenizers.description import read_description
from bevt_core.weights.model_files import save_weights
from pipeline.check.verify import verify
from pipeline.look.sample import inspect_dataset
from pipeline.recipes import PIPELINE_RECIPES
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard
from schemas.recipes import ClipSampling, EvalViews, FinetuneRecipe, PretrainRecipe, TokenizeRecipe, TokenizerRecipe
from schemas.recipes.loading import load_recipe, load_recipe_of, to_yaml
from schemas.runs import RunRecord
from tests.support.builders import make_token_set
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer.recipes import TRAINER_RECIPES
from trainer.runs.directory import check_run_dir, read_run, weights_of
from trainer.setup.start_from import weights_file
from trainer.show.viz import viz_predict
from trainer.testing.classifier_card import read_card as read_classifier_card
from trainer.testing.frozen import open_frozen

NANO = SWIN_SIZES["nano"]


def save_run(folder: Path, recipe_name: str) -> None:
    recipe = load_recipe(recipe_name, TRAINER_RECIPES)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    record = {"command": "bevt", "versions": {}, "datasets": {}, "world_size": 1, "started": "", "git_revision": None}
    write_record(folder / "run.json", RunRecord(recipe_digest=recipe.digest(), **record))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each: a dataset, a tokenizer, runs of three kinds, one unfinished, other folders, a file."""
    root = tmp_path_factory.mktemp("places")
    make_token_set(root / "data", num_samples=4)
    save_tiny_tokenizer(root / "tokenizer")
    for name, recipe in (("pretrained", "nano_video"), ("tuned", "nano_finetune"), ("half", "nano_finetune")):
        save_run(root / name, recipe)
    save_run(root / "dvae", "nano_tokenizer")
    save_tiny_tokenizer(root / "dvae" / "tokenizer")
    save_weights(root / "pretrained" / "weights.safetensors", build_bevt(**NANO, vocab_size=64))
    save_weights(root / "tuned" / "weights.safetensors", build_classifier(**NANO, num_classes=2))
    card = ClassifierCard(
        title="",
        classes=("no", "yes"),
        sampling=ClipSampling(kind="dense", frames=4, interval=1),
        crop_px=64,
        views=EvalViews(clips=1, crops=1, short_side_px=64),
    )
    write_record(root / "tuned" / "classifier.json", card)
    (root / "videos").mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        (root / "videos" / name).touch()
    (root / "empty").mkdir()
    return root


IS = {
    "data": r"a dataset \(frame store .*data/frames, token set .*data/tokens/test-v2\)",
    "data/frames": r"a frame store \(token set .*data/tokens/test-v2\)",
    "data/tokens/test-v2": r"a token set of the frame store .*data/frames",
    "data/frames/part-00000": "a part of a frame store",
    "tokenizer": "a tokenizer",
    "dvae": r"a tokenizer's training run \(its tokenizer: .*dvae/tokenizer\)",
    "pretrained": "a pretraining run",
    "tuned": "a fine-tuning run",
    "half": r"a fine-tuning run, not finished \(continue with --resume\)",
    "videos": r"a folder with other content \(a\.mp4, b\.mp4, c\.mp4, \.\.\.\)",
    "empty": "an empty folder",
    "videos/a.mp4": "a file",
    "nowhere": "no such file or folder",
}
WANTED = {  # kind of input -> its reader, the reader's error, and the places it accepts
    "a token set": (TokenSet, "expected a token set", {"data/tokens/test-v2"}),
    "a frame store": (FrameStore, "expected a frame store", {"data/frames"}),
    "--init": (lambda place: weights_file(str(place)), "expected a finished run", {"pretrained", "tuned"}),
    "a classifier": (lambda place: read_classifier_card(weights_of(place)), "expected a .*fine-tuning run", {"tuned"}),
    "an encoder": (
        lambda place: open_frozen(place, None, 1, 1),
        "expected a finished run|its pretraining data",
        {"tuned"},
    ),
    "a run": (read_run, "expected the directory of a run", {"pretrained", "tuned", "half", "dvae"}),
    "a tokenizer": (read_description, r"expected a folder with tokenizer\.json", {"tokenizer"}),
    "a dataset to check": (verify, r"give (the folder that `bevt tokenize` wrote|.*/data$)", {"data"}),
    "a dataset to look at": (inspect_dataset, r"give (the folder that `bevt tokenize` wrote|.*/data$)", {"data"}),
}


@pytest.mark.parametrize("name", IS)
def test_places_are_named(name: str, places: Path) -> None:
    assert re.fullmatch(IS[name], what_is(places / name))


@pytest.mark.parametrize("wanted", WANTED)
def test_another_place_is_named_with_what_was_wanted(wanted: str, places: Path) -> None:
    read, expected, right = WANTED[wanted]
    for name in IS.keys() - right - {"nowhere", "videos/a.mp4"}:
        with pytest.raises(UserError, match=expected) as raised:
            read(places / name)
        if name != "pretrained" or wanted != "an encoder":  # its data has moved
            assert re.search(rf"[:(] ?{IS[name]}", str(raised.value))
    for name in ("nowhere", "videos/a.mp4"):
        if name == "nowhere" or wanted in ("a token set", "a frame store"):
            with pytest.raises(UserError, match=r"no such|a file"):
                read(places / name)


def test_a_pretraining_run_is_wanted_for_predictions_of_tokens(places: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a fine-tuning run; expected a finished pretraining run"):
        viz_predict(places / "tuned", tmp_path)


def test_a_damaged_manifest_is_not_taken_for_another_place(places: Path, tmp_path: Path) -> None:
    text = (places / "data" / "frames" / "dataset.json").read_text()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "dataset.json").write_text(text.replace('"num_parts"', '"number_of_parts"'))
    with pytest.raises(UserError, match="expected a FrameStoreManifest of this version"):
        FrameStore(tmp_path / "frames")


KINDS = {
    TokenizeRecipe: "k400",
    PretrainRecipe: "nano_joint",
    FinetuneRecipe: "nano_finetune",
    TokenizerRecipe: "nano_peco",
}
HOMES = {"k400": PIPELINE_RECIPES}
COMMANDS = {"k400": "bevt tokenize", "nano_joint": "bevt train", "nano_finetune": "bevt finetune"}


@pytest.mark.parametrize(
    ("kind", "other"), [(kind, other) for kind, other in itertools.product(KINDS, COMMANDS) if KINDS[kind] != other]
)
def test_another_kind_of_recipe_names_its_command(kind: type, other: str) -> None:
    here = HOMES.get(KINDS[kind], TRAINER_RECIPES)
    expected = rf"recipe '.*{other}.*' is for `{COMMANDS[other]}` .*give one of kind"
    path = HOMES.get(other, TRAINER_RECIPES) / f"{other}.yaml"
    for name in (other, str(path)):
        with pytest.raises(UserError, match=expected):
            load_recipe_of(kind, name, here, ["no_such_key=1"])  # type: ignore[type-var]


def test_a_run_is_no_recipe(places: Path) -> None:
    with pytest.raises(UserError, match=r"pretrained' is a folder; give .*pretrained/recipe\.yaml"):
        load_recipe_of(PretrainRecipe, str(places / "pretrained"), TRAINER_RECIPES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train image --recipe nano_image", r"image stream: .*no such token set.*give --image-tokens"),
        ("train joint --recipe nano_joint", r"video stream: .*no such token set.*give --video-tokens"),
        ("train image --recipe nano_joint", "stage image: the recipe 'nano_joint' is for stage joint"),
        ("train video --recipe nano_video --image-tokens x", "--image-tokens x: the recipe 'nano_video' has no image"),
        ("train video --recipe nano_finetune --video-tokens x", "'nano_finetune' is for `bevt finetune`"),
        ("train --from {places}/tuned", "is for `bevt finetune`"),
        ("train joint --from {places}/pretrained", "stage joint: .* is for stage video"),
        ("train --from {places}/pretrained --recipe nano_video", "--recipe nano_video: --from .* names the recipe"),
        ("train --from {places}/data", "a dataset .*expected the directory of a run"),
        (
            "finetune folder --root {places}/data",
            "--root .*data: a dataset .*expected the folder that contains the files",
        ),
        ("finetune folder --root {places}/pretrained", "--root .*pretrained: a pretraining run; expected the folder"),
        ("finetune folder --root {places}/empty", "--root .*empty: no videos or pictures"),
        ("export {places}/pretrained --format onnx", "--format onnx: .*pretrained is not a classifier"),
        ("export {places}/dvae", "a tokenizer's training run .*expected a finished run"),
    ],
)
def test_options_that_name_another_thing(
    arguments: str,
    expected: str,
    places: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.app([*arguments.format(places=places).split(), "--out", "new"])
    assert re.search(f"^error: .*{expected}", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "tokenizer"])
def test_a_run_of_another_kind_is_not_resumed(kind: str, places: Path) -> None:
    runs = {"pretrain": "pretrained", "finetune": "half", "tokenizer": "dvae"}
    for other, name in runs.items():
        if other == kind:
            check_run_dir(places / name, kind, resume=True)
            continue
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"/{name} is {RUNS[other]}, which `bevt .*` resumes; give another"):
                check_run_dir(places / name, kind, resume)


def test_the_dataset_around_a_frame_store_or_token_set_is_suggested(places: Path) -> None:
    inside = [places / "data" / "frames", next((places / "data" / "tokens").iterdir())]
    assert [dataset_around(path) for path in inside] == [str(places / "data")] * 2
    assert dataset_around(places / "empty") == "the folder that `bevt tokenize` wrote"


def test_advice_fits_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = bevt_core.console.installation.ROOT
    assert install_command("onnx") in ("pip install -e '.[onnx]'", f"pip install -e '{root}[onnx]'")
    monkeypatch.chdir(root)
    assert install_command("onnx") == "pip install -e '.[onnx]'"
    monkeypatch.setattr(bevt_core.console.installation, "ROOT", tmp_path)  # as in site-packages
    assert install_command("onnx") == "pip install 'bevt[onnx]'"
    assert install_command() == "pip install 'bevt'"
