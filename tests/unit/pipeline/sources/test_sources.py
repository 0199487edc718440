"""Listing of a data set's files and their classes."""

from pathlib import Path

import pytest

from pipeline.sources import SOURCES, list_sources
from pipeline.sources.list_lines import split_line
from pipeline.sources.listing import label_by
from schemas.errors import UserError
from tests.support.listings import labels, touch

# ---- folders ---------------------------------------------------------------------------------------------------------


def test_class_folders_with_awkward_names(tmp_path: Path) -> None:
    names = [
        "arm wrestling/a b.mp4",
        "garbage collecting/-08x.mp4",
        "massaging person's head/é.webm",
        "tai (chi)/x.MP4",
    ]
    listing = list_sources("k400", touch(tmp_path, *names), "train")
    assert labels(listing) == {name: name.split("/")[0] for name in names}
    assert listing.classes == tuple(sorted(name.split("/")[0] for name in names))


@pytest.mark.parametrize("base", ["", "videos/", "val/", "videos/val/"])
def test_common_layouts(tmp_path: Path, base: str) -> None:
    listing = list_sources("folder", touch(tmp_path, f"{base}a/1.mp4", f"{base}b/2.mp4"), "val")
    assert labels(listing) == {f"{base}a/1.mp4": "a", f"{base}b/2.mp4": "b"}


def test_flat_files_have_no_labels(tmp_path: Path) -> None:
    listing = list_sources("folder", touch(tmp_path, "x.mp4", "y.avi"), "train")
    assert ([item.label for item in listing.items], listing.classes) == ([None, None], ())


def test_recursion_takes_the_nearest_folder_as_the_class(tmp_path: Path) -> None:
    listing = list_sources("folder", touch(tmp_path, "2020/run/1.mp4", "2021/run/1.mp4", "2021/sit/3.mp4"), "train")
    assert set(labels(listing).values()) == {"run", "sit"}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    listing = list_sources("folder", touch(tmp_path, "a/1.mp4", "a/1.jpg", "a/notes.txt", "a/.hidden.mp4"), "train")
    assert list(labels(listing)) == ["a/1.mp4"]
    assert listing.ignored == {".jpg": 1, ".txt": 1}


def test_zero_byte_stubs_are_items(tmp_path: Path) -> None:
    assert len(list_sources("folder", touch(tmp_path, "a/1.mp4"), "train").items) == 1


def test_the_order_depends_on_names_alone(tmp_path: Path) -> None:
    names = [f"{c}/{i}.mp4" for c in "cab" for i in (2, 0, 1)]
    one = list_sources("folder", touch(tmp_path / "one", *names), "train")
    other = list_sources("folder", touch(tmp_path / "other", *reversed(names)), "train")
    assert one.items == other.items


def test_a_classes_file_fixes_the_order_of_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "classes.txt").write_text("b\nmissing in this split\na\n")
    listing = list_sources("folder", tmp_path, "train")
    assert {item.source: item.label for item in listing.items} == {"a/1.mp4": 2, "b/2.mp4": 0}
    (tmp_path / "classes.txt").write_text("b\n")
    with pytest.raises(UserError, match="'a' is not among the 1 classes"):
        list_sources("folder", tmp_path, "train")


def test_some_of_the_classes_are_labelled_by_a_map_of_all(tmp_path: Path) -> None:
    """Classes match by name, with spaces or underscores; a class map beside the files keeps its own labels."""
    listing = list_sources("folder", touch(tmp_path, "tai_chi/1.mp4", "arm/2.mp4"), "val")
    known = label_by(listing, ("zumba", "tai chi", "arm"), "there", "the model")
    assert labels(known) == {"tai_chi/1.mp4": "tai chi", "arm/2.mp4": "arm"} and len(known.classes) == 3
    with pytest.raises(UserError, match=r"there: 1 of its 2 classes \('tai_chi'\) are not among the 2 of the model"):
        label_by(listing, ("zumba", "arm"), "there", "the model")
    (tmp_path / "classes.txt").write_text("tai_chi\narm\n")
    own = list_sources("folder", tmp_path, "val")
    assert label_by(own, ("arm", "tai_chi"), "there", "the model") == own
    flat = list_sources("folder", touch(tmp_path / "flat", "1.mp4"), "val")
    assert label_by(flat, ("arm",), "there", "the model").classes == ()


def test_imagenet_labels_follow_sorted_wnids(tmp_path: Path) -> None:
    listing = list_sources(
        "imagenet", touch(tmp_path, "val/n02/x.JPEG".replace("n02", "n02000000"), "val/n01440764/y.JPEG"), "val"
    )
    assert listing.classes == ("n01440764", "n02000000")
    assert {item.kind for item in listing.items} == {"image"}
    with pytest.raises(UserError, match="neither folders named by wnid"):
        list_sources("imagenet", touch(tmp_path / "other", "cat/1.jpg"), "val")
    with pytest.raises(UserError, match="'cat' among the wnids"):
        list_sources("imagenet", touch(tmp_path, "val/cat/1.jpg"), "val")


# ---- list files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("arm wrestling/a b.mp4\t7", ("arm wrestling/a b.mp4", "7")),
        ("0wR5jVB-WPk.mp4,341", ("0wR5jVB-WPk.mp4", "341")),
        ("a,b c.mp4 3", ("a,b c.mp4", "3")),
        ("-08x.mp4 -1", ("-08x.mp4", "-1")),
        ("abseiling/0wR5.mp4\tabseiling", ("abseiling/0wR5.mp4", "abseiling")),
        ("a/0.mp4 arm wrestling", ("a/0.mp4", "arm wrestling")),
        ('"quoted, name.mp4",3', ("quoted, name.mp4", "3")),
    ],
)
def test_a_line_splits_from_the_right(line: str, expected: tuple[str, str]) -> None:
    assert split_line(line, ("abseiling", "arm wrestling"), "here") == expected


def test_a_line_without_a_label_is_named_in_the_error() -> None:
    with pytest.raises(UserError, match=r"list\.txt, line 3: 'only/a/path\.mp4'"):
        split_line("only/a/path.mp4", (), "list.txt, line 3")


def test_a_list_counts_missing_files(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a/1.mp4")
    (tmp_path / "list.tsv").write_text("a/1.mp4\t0\na/gone.mp4\t1\n")
    (tmp_path / "classes.txt").write_text("zebra\napple\n")
    listing = list_sources("k400", tmp_path, "train")
    assert labels(listing) == {"videos/a/1.mp4": "zebra", "videos/a/gone.mp4": "apple"}
    assert listing.missing == ["videos/a/gone.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.mp4\t5\n", "label 5, expected one below 2"),
        ("a/1.mp4\t0\na/1.mp4\t1\n", "occurs more than once"),
        ("../../etc/x 0\n", "leads out of the root"),
        ("/etc/x 0\n", "leads out of the root"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a/1.mp4")
    (tmp_path / "list.tsv").write_text(text)
    (tmp_path / "classes.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=message):
        list_sources("k400", tmp_path, "train")


# ---- bad roots -------------------------------------------------------------------------------------------------------


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    secret = touch(tmp_path / "elsewhere", "a/1.mp4")
    root = touch(tmp_path / "root", "b/2.mp4")
    (root / "a").symlink_to(secret / "a")
    with pytest.raises(UserError, match="out of the root"):
        list_sources("folder", root, "train")
    (root / "a").unlink()
    (root / "b" / "3.mp4").symlink_to(secret / "a" / "1.mp4")
    with pytest.raises(UserError, match="out of the root"):
        list_sources("folder", root, "train")
    (root / "b" / "3.mp4").unlink()
    (root / "b" / "3.mp4").symlink_to(root / "b" / "2.mp4")
    assert len(list_sources("folder", root, "train").items) == 2


def test_a_list_cannot_leave_the_root_by_hidden_names_or_frames(tmp_path: Path) -> None:
    secret = touch(tmp_path / "elsewhere", "1.mp4", "1.jpg")
    root = touch(tmp_path / "root", "clip/1.jpg")
    (root / ".hid").symlink_to(secret)
    (tmp_path / "hidden.txt").write_text(".hid/1.mp4 0\n")
    with pytest.raises(UserError, match="begin with a dot"):
        list_sources("list", root, "train", tmp_path / "hidden.txt")
    (tmp_path / "frames.txt").write_text("clip 0\n")
    assert list_sources("list", root, "train", tmp_path / "frames.txt").missing == []
    (root / "clip" / "2.jpg").symlink_to(secret / "1.jpg")
    with pytest.raises(UserError, match="out of the root"):
        list_sources("list", root, "train", tmp_path / "frames.txt")
    assert list_sources("list", root, "train", tmp_path / "frames.txt", allow_outside=True).missing == []


def test_a_loop_of_links_ends_in_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads back"):
        list_sources("folder", tmp_path, "train")


def test_bad_roots_and_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list_sources("folder", tmp_path / "nope", "train")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"`root` .*file: a file, expected a folder; .* the files of 'folder'"):
        list_sources("folder", tmp_path / "file", "train")
    with pytest.raises(UserError, match=r"`list_file` .*: a folder, expected a file"):
        list_sources("list", tmp_path, "train", tmp_path)
    with pytest.raises(UserError, match="did you mean 'k400'"):
        list_sources("k4000", tmp_path, "train")
    with pytest.raises(UserError, match="no videos or pictures for dataset 'folder', split 'train'"):
        list_sources("folder", touch(tmp_path, "a/readme.txt"), "train")


def test_real_data(shared_data: Path) -> None:
    k400 = list_sources("k400", shared_data / "k400", "val")
    assert k400.classes == ("abseiling", "arm wrestling", "laughing")
    assert len(list_sources("imagenet", shared_data / "imagenet" / "val", "val").items) == 202
    assert len(list_sources("folder", shared_data / "railtank", "train").items) == 173


def test_every_source_of_the_recipes_is_known() -> None:
    from pipeline.recipes import PIPELINE_RECIPES
    from schemas.recipes.loading import load_recipe, recipe_names

    for name in recipe_names(PIPELINE_RECIPES):
        assert load_recipe(name, PIPELINE_RECIPES).dataset in SOURCES
