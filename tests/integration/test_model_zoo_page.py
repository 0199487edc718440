"""The model zoo's page agrees with what ships: every model and tokenizer, with sizes and digests, and every recipe."""

from pathlib import Path

from bevt_core.storage.files import sha256_of
from bevt_core.weights.packaged import describe_packaged, packaged_names
from tests.conftest import REPO

PAGE = (REPO / "docs" / "reference" / "model-zoo.md").read_text()
TOKENIZERS = REPO / "bevt_core" / "tokenizers" / "pretrained"


def row_of(name: str) -> str:
    """The only row of a table whose first column has the name."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{name}`" in line]
    return row


def test_every_packaged_model_is_listed_with_its_digest() -> None:
    assert packaged_names()
    for name in packaged_names():
        described = describe_packaged(name)
        shown = (f"{described['parameters']:,} parameters, {described['bytes'] / 1e6:.1f} MB", described["trained_on"])
        size = f"{described['frames']} frames of {described['crop_px']} px"
        assert all(text in row_of(name) for text in (*shown, size, described["weights_sha256"]))


def test_every_packaged_tokenizer_is_listed_with_its_digests() -> None:
    for folder in sorted(TOKENIZERS.iterdir()):
        files = [folder / f"{part}.safetensors" for part in ("encoder", "decoder")]
        assert all(sha256_of(file) in row_of(folder.name) for file in files)
        assert f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB" in row_of(folder.name)


def test_the_papers_recipes_have_no_weights_yet() -> None:
    recipes = {path.stem for path in Path(REPO / "trainer" / "recipes").glob("*swin_base*.yaml")}
    for recipe in recipes:
        assert row_of(recipe).endswith("| no weights yet |")
