"""A packed data set is listed as the same data set unpacked."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.sources import list_files, list_sources
from pipeline.sources.archives.local_copy import local_source
from pipeline.sources.archives.names import warn_of_archives
from schemas.errors import UserError
from tests.support.archives import tar_of, write_pictures, write_tar, write_zip, zip_of
from tests.support.listings import labels

CLASSES = ("arm wrestling/-08x.jpg", "arm wrestling/b.jpg", "tai (chi)/é 木.jpg", "tai (chi)/x.JPG")


def class_tars(plain: Path, packed: Path) -> None:
    """A tar per class, flat or with its folder, as mirrors of Kinetics have."""
    write_pictures(plain, *(f"train/{name}" for name in CLASSES))
    write_tar(packed / "train/arm wrestling.tar", plain / "train/arm wrestling", dot=True)
    write_tar(packed / "train/the second.tar", plain / "train", "tai (chi)")


def one_zip(plain: Path, packed: Path) -> None:
    """A zip of the root's folders."""
    write_pictures(plain, *(f"train/{name}" for name in CLASSES), "val/arm wrestling/v.jpg", "classes.md")
    write_zip(packed / "train.zip", plain, "train")
    write_zip(packed / "others.zip", plain, "val", "classes.md")


def half_packed(plain: Path, packed: Path) -> None:
    """Some classes are folders, others archives."""
    write_pictures(plain, *CLASSES)
    write_pictures(packed, *CLASSES[:2])
    write_zip(packed / "tai (chi).zip", plain / "tai (chi)")


def numbered_parts(plain: Path, packed: Path) -> None:
    """Parts that cut a flat folder, labelled by the official CSV."""
    rows = "".join(f"arm wrestling,id{i},{i},{i + 10},train\n" for i in range(4))
    for root in (plain, packed):
        root.mkdir()
        (root / "train.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")
    names = [f"id{i}_{i:06d}_{i + 10:06d}.mp4" for i in range(3)]
    write_pictures(plain, *(f"train/{name}" for name in names))
    write_tar(packed / "train/part_0.tar", plain / "train", *names[:2], dot=True)
    write_tar(packed / "train/part_1.tar", plain / "train", names[2])


def imagenet(plain: Path, packed: Path) -> None:
    """A tar of a tar per class."""
    wnids = ("n01440764", "n01443537")
    write_pictures(plain, *(f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in wnids for i in (10026, 7)))
    inner = [write_tar(packed / f"{wnid}.tar", plain / "train" / wnid) for wnid in wnids]
    write_tar(packed / "ILSVRC2012_img_train.tar", packed, *(path.name for path in inner))
    for path in inner:
        path.unlink()


def imagenet_val(plain: Path, packed: Path) -> None:
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2)]
    for root in (plain, packed):
        (root / "annotations").mkdir(parents=True)
        (root / "annotations/imagenet_2012_validation_synset_labels.txt").write_text("n01443537\nn01440764\n")
    write_pictures(plain, *(f"val/{name}" for name in names))
    write_tar(packed / "ILSVRC2012_img_val.tar", plain / "val")


def frame_folders(plain: Path, packed: Path) -> None:
    """Folders of frames, in a tar with their common folder."""
    for root in (plain, packed):
        root.mkdir()
        (root / "labels.json").write_text(json.dumps({"Throwing something": "0"}))
        rows = [{"id": str(i), "template": "Throwing [something]"} for i in (1, 20, 3)]
        (root / "something-something-v2-train.json").write_text(json.dumps(rows))
    write_pictures(plain, *(f"rawframes/{i}/img_{t:05d}.jpg" for i in (1, 20) for t in range(3)))
    write_tar(packed / "something-v2-frames.tar", plain, "rawframes")


LAYOUTS: dict[str, tuple[Callable[[Path, Path], None], str, str]] = {
    "class tars": (class_tars, "folder", "train"),
    "one zip": (one_zip, "folder", "train"),
    "half packed": (half_packed, "folder", "train"),
    "numbered parts": (numbered_parts, "k400", "train"),
    "imagenet": (imagenet, "imagenet", "train"),
    "imagenet val": (imagenet_val, "imagenet", "val"),
    "frame folders": (frame_folders, "ssv2", "train"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_and_unpacked_are_listed_alike(tmp_path: Path, layout: str) -> None:
    make, dataset, split = LAYOUTS[layout]
    plain_root, root = tmp_path / "plain", tmp_path / "packed"
    make(plain_root, root)
    plain, packed = (list_sources(dataset, path, split) for path in (plain_root, root))
    assert packed.items == plain.items and len(plain.items) > 1
    assert (packed.classes, packed.missing, packed.ignored) == (plain.classes, plain.missing, plain.ignored)
    assert not plain.packed and packed.packed and not packed.warnings
    for item in packed.items:
        if item.source in packed.missing:
            continue
        with local_source(root, item.source, packed.packed.get(item.source, ()), False) as folder:
            assert content(folder / item.source) == content(plain_root / item.source)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])}


def test_a_list_names_members(tmp_path: Path) -> None:
    """By the path of the unpacked file; frame counts are compared with those in the archive."""
    write_pictures(tmp_path / "plain", "x/1/img_1.jpg", "x/1/img_2.jpg", "x/2.jpg")
    write_tar(tmp_path / "packed/x.tar", tmp_path / "plain/x")
    (tmp_path / "list.txt").write_text("x/1 3 0\nx/2.jpg 1\nx/3.mp4 1\n")
    listing = list_sources("list", tmp_path / "packed", "train", tmp_path / "list.txt")
    assert listing.missing == ["x/3.mp4"] and sorted(listing.packed) == ["x/1", "x/2.jpg"]
    assert "x/1: 3 in the list, 2 in the folder" in listing.warnings[0]


def test_an_unpacked_archive_is_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    write_tar(tmp_path / "a.tar", tmp_path / "a")
    write_zip(tmp_path / "more.zip", tmp_path, "b")
    listing = list_sources("folder", tmp_path, "train")
    assert not listing.packed and listing.ignored == {".tar": 1, ".zip": 1}
    assert len(listing.warnings) == 2 and "a.tar: not used, since" in listing.warnings[0]


def test_what_is_not_a_source_is_counted(tmp_path: Path) -> None:
    members = [("a/1.jpg", b""), ("a/notes.txt", b""), ("a/.hidden.jpg", b""), ("__MACOSX/a/._1.jpg", b"")]
    (tmp_path / "all.zip").write_bytes(zip_of(members))
    (tmp_path / "annotations.zip").write_bytes(zip_of([("train.csv", b"")]))
    listing = list_sources("folder", tmp_path, "train")
    assert labels(listing) == {"a/1.jpg": "a"} and listing.ignored == {".txt": 1, ".zip": 1}


def test_annotations_are_not_read_from_archives(tmp_path: Path) -> None:
    """They are files of the user's, beside the archives."""
    (tmp_path / "all.zip").write_bytes(zip_of([("train.csv", b"youtube_id"), ("a/1.mp4", b"")]))
    assert labels(list_sources("k400", tmp_path, "train")) == {"all/a/1.mp4": "a"}


def test_the_order_of_members_changes_nothing(tmp_path: Path) -> None:
    names = [f"{c}/{i}.jpg" for c in "cab" for i in (2, 0, 1)]
    for folder, order in (("one", names), ("other", names[::-1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tar").write_bytes(tar_of([(name, b"") for name in order]))
    one, other = (list_sources("folder", tmp_path / folder, "train") for folder in ("one", "other"))
    assert one.items == other.items


CLASHES: dict[str, tuple[dict[str, list[str]], str]] = {
    "two archives": ({"part_0.tar": ["x.jpg"], "part_1.zip": ["x.jpg"]}, r"'x\.jpg' is in part_0\.tar and part_1\.zip"),
    "twice": ({"a.tar": ["x.jpg", "./x.jpg"]}, r"'a/x\.jpg' is twice in a\.tar"),
    "folder and file": ({"a.zip": ["x.jpg/1.jpg", "x.jpg", "y.jpg"]}, r"'a/x\.jpg' is a file and a folder in a\.zip"),
    "file and folder": ({"a.zip": ["x.jpg", "y.jpg", "x.jpg/1.jpg"]}, r"'a/x\.jpg' is a file and a folder in a\.zip"),
    "a file": ({"part_0.tar": ["0.jpg", "file.jpg"]}, r"file\.jpg: exists, and part_0\.tar has a member with the same"),
    "a folder": ({"part_0.tar": ["0.jpg", "folder"]}, r"folder: exists, and part_0\.tar has a member with the same"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_a_path_belongs_to_one_source(tmp_path: Path, clash: str) -> None:
    archives, message = CLASHES[clash]
    write_pictures(tmp_path, "file.jpg", "folder/1.jpg")
    for name, members in archives.items():
        make = zip_of if name.endswith(".zip") else tar_of
        (tmp_path / name).write_bytes(make([(member, b"") for member in members]))
    with pytest.raises(UserError, match=message):
        list_sources("folder", tmp_path, "train")


def test_a_faulty_archive_is_one_error_with_its_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a/1.jpg")
    for name, data in {
        "cut.tar": tar_of([("x.jpg", b"x" * 999)])[:900],
        "cut.zip": zip_of([("x.jpg", b"")])[:-5],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: .*; the archive is cut or damaged: get it again"):
            list_sources("folder", tmp_path, "train")
        (tmp_path / name).unlink()


def test_an_inner_tar_is_checked_too(tmp_path: Path) -> None:
    inner = tar_of([("x.JPEG", b"x" * 999)])[:900]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of([("n01440764.tar", inner)]))
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train.tar: n01440764.tar: the member 'x.JPEG' ends after"):
        list_sources("imagenet", tmp_path, "train")


def test_an_archive_behind_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.tar").write_bytes(tar_of([("x.jpg", b"")]))
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.tar").symlink_to(tmp_path / "secret.tar")
    with pytest.raises(UserError, match=r"a link to .*, out of the root"):
        list_sources("folder", tmp_path / "root", "train")
    assert list(list_sources("folder", tmp_path / "root", "train", None, True).packed) == ["a/x.jpg"]


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"a\.tar: not a regular file, expected an archive"):
        list_sources("folder", tmp_path, "train")


def test_other_splits_are_not_opened(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train/a/1.jpg")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/a.tar").write_bytes(b"torn")
    assert len(list_sources("folder", tmp_path, "train").items) == 1


def test_readers_of_files_refuse_archives(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a/1.jpg")
    assert len(list_files("folder", tmp_path, "train", None, False).items) == 1
    (tmp_path / "b.tar").write_bytes(tar_of([("x.jpg", b"")]))
    with pytest.raises(UserError, match=r"1 of its 2 sources are in archives, .* --frames-only"):
        list_files("folder", tmp_path, "train", None, False)


def test_many_members_are_listed_in_one_pass(tmp_path: Path) -> None:
    """A quadratic step would take minutes."""
    (tmp_path / "part_0.zip").write_bytes(zip_of([(f"{i % 100}/{i}.jpg", b"") for i in range(20_000)]))
    listing = list_sources("folder", tmp_path, "train")
    assert (len(listing.items), len(listing.packed), len(listing.classes)) == (20_000, 20_000, 100)


def test_splits_below_other_folders_of_an_archive_are_found(tmp_path: Path) -> None:
    """As in the archive of Kaggle's competition; a class named `train` is no split."""
    wnid = "ILSVRC/Data/CLS-LOC/{}/n01440764/{}.JPEG"
    members = [(wnid.format(split, i), b"") for split in ("train", "val") for i in range(2)]
    (tmp_path / "competition.zip").write_bytes(zip_of([*members, ("LOC_val_solution.csv", b"")]))
    base = "competition/ILSVRC/Data/CLS-LOC"
    assert [item.source for item in list_sources("imagenet", tmp_path, "val").items] == [
        f"{base}/val/n01440764/{i}.JPEG" for i in range(2)
    ]
    with pytest.raises(UserError, match="no folder for split 'test', only for train, val"):
        list_sources("imagenet", tmp_path, "test")
    (tmp_path / "competition.zip").write_bytes(zip_of([("x/train/1.mp4", b""), ("x/plane/2.mp4", b"")]))
    assert list_sources("folder", tmp_path, "train").classes == ("plane", "train")


def test_an_archive_as_root_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of([("x.jpg", b"")]))
    with pytest.raises(UserError, match=r"a\.zip: an archive, expected its folder"):
        list_sources("folder", tmp_path / "a.zip", "train")


def test_archives_on_object_stores_are_no_silent_loss() -> None:
    assert warn_of_archives({".csv": 1, ".gz": 2, ".tgz": 1}, "s3://raw") == [
        "s3://raw: 3 compressed tars are not read there; copy them to a file system"
    ]
    assert not warn_of_archives({".csv": 1}, "s3://raw")


def test_progress_is_shown_for_large_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of([("x.jpg", b"")]))
    list_sources("folder", tmp_path, "train")
    assert not capsys.readouterr().err
    monkeypatch.setattr("pipeline.sources.archives.tree.SHOWN_BYTES", 0)
    list_sources("folder", tmp_path, "train")
    assert "list archives 0/0 MB" in capsys.readouterr().err
