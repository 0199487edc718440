"""List files in common forms: each line is read as intended, or one error names it."""

import resource
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bevt_core.media.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of, suffix_of
from bevt_core.rng import rng_for
from pipeline.sources import check_found, choose_stored, list_sources, listing
from pipeline.sources.class_names import read_classes
from pipeline.sources.listing import media_files
from pipeline.sources.walk.tree import Tree
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem
from tests.support.media import write_image
from trainer.testing import predict

FRAME_HWC = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("abseiling/a1.mp4", "air drumming/b1.mp4", "café/x.mp4"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"")
    return root


def listed(root: Path, text: str, encoding: str = "utf-8", dataset: str = "list") -> list[tuple[str, int | None]]:
    (root.parent / "x.txt").write_text(text, encoding=encoding)
    listing = list_sources(dataset, root, "train", root.parent / "x.txt")
    assert listing.missing == []
    return [(item.source, item.label) for item in listing.items]


BOTH = [("abseiling/a1.mp4", 0), ("air drumming/b1.mp4", 1)]


@pytest.mark.parametrize(
    "text",
    [
        "abseiling/a1.mp4 0\nair drumming/b1.mp4 1\n",
        "abseiling\\a1.mp4 0\r\nair drumming\\b1.mp4 1\r\n",
        ".\\abseiling\\a1.mp4,0\n.\\air drumming\\b1.mp4,1",
        "@ROOT@/abseiling/a1.mp4 0\n@ROOT@/air drumming/b1.mp4 1\n",
        "@ROOT@//abseiling/./a1.mp4\t0\n\n./air drumming/b1.mp4\t1\n",
        '"abseiling/a1.mp4",0\r"air drumming/b1.mp4",1\r',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_paths_and_encodings(root: Path, text: str, encoding: str) -> None:
    assert listed(root, text.replace("@ROOT@", str(root)), encoding) == BOTH


def test_a_root_can_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert listed(link, f"{root}/abseiling/a1.mp4 0\n{link}/air drumming/b1.mp4 1\n") == BOTH


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("café/x.mp4 0\n", "latin1", "line 1: byte 0xe9 is not UTF-8"),
        (
            "abseiling/a1.mp4 0 2\n",
            "utf-8",
            "line 1: 0 and the label 2 after 'abseiling/a1.mp4', expected only a label",
        ),
        ("abseiling/a1.mp4 1\ngone.mp4,2,1,0\n", "utf-8", "line 2: 2, 1 and the label 0 after 'gone.mp4'"),
        ("abseiling/a1.mp4 1\nabseiling 4 0 2\n", "utf-8", "line 2: 4, 0 and the label 2"),  # no first and last
        ("a 0\nair drumming/b1.mp4 1700000000\n", "utf-8", "line 2: label 1700000000, expected one below 30000"),
        ("a 1" + "0" * 20, "utf-8", "line 1: label 10{19}, expected"),
        ("a " + "9" * 5000, "utf-8", "line 1: label 9{20}, expected"),
        ("abseiling/a1.mp4 0\n./abseiling/a1.mp4 1\n", "utf-8", "line 2: .* more than once; first in .*line 1"),
        ("path,label\nabseiling/a1.mp4,0\n", "utf-8", "line 1: 'path,label' does not end in a label"),
        ("..\\..\\etc\\x 0\n", "utf-8", "line 1: .* leads out of the root"),
        ("C:\\..\\..\\..\\x 0\n", "utf-8", "line 1: .* leads out of the root"),
        ("@ROOT@-2/x.mp4 0\n", "utf-8", "line 1: .* leads out of the root"),
        ("@ROOT@/ 0\n", "utf-8", "line 1: .* names no file"),
        ("<!doctype html>\n", "utf-8", "line 1: a web page"),
        ("", "utf-8", "names no files"),
    ],
)
def test_bad_lines(root: Path, text: str, encoding: str, message: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as error:
        listed(root, text.replace("@ROOT@", str(root)), encoding)
    assert "x.txt" in str(error.value) and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_labels_that_start_at_one_give_a_warning(root: Path) -> None:
    (root.parent / "x.txt").write_text("abseiling/a1.mp4 1\nair drumming/b1.mp4 2\n")
    listing = list_sources("list", root, "train", root.parent / "x.txt")
    assert listing.classes == ("0", "1", "2") and "labels are 1 to 2, so class 0" in listing.warnings[0]
    (root.parent / "classes.txt").write_text("none\nabseiling\nair drumming\n")
    assert list_sources("list", root, "train", root.parent / "x.txt").warnings == []


def test_a_list_of_missing_files(root: Path) -> None:
    (root.parent / "x.txt").write_text("a1.mp4 0\nb1.mp4 1\n")
    listing = list_sources("list", root, "train", root.parent / "x.txt")
    with pytest.raises(UserError, match=r"none of the 2 files that it names exists, such as .*root/a1\.mp4"):
        check_found(listing, root, root.parent / "x.txt")
    check_found(list_sources("folder", root, "train"), root, None)


def test_the_counts_of_frame_folders(root: Path) -> None:
    """`dir frames label` and `dir first last label`; a differing count is a warning, and all frames are used."""
    for folder, frames in {"v1": 3, "v2": 3, "v3": 2, "v4": 0}.items():
        for i in range(frames):
            write_image(root / folder / f"img_{i:05}.jpg", FRAME_HWC)
            write_image(root / folder / f"flow_x_{i:05}.jpg", FRAME_HWC)
        (root / folder).mkdir(exist_ok=True)
    text = "v1 3 0\nv2 0 2 0\nv3,3,1\nv4 3 1\n"
    assert listed(root, text) == [("v1", 0), ("v2", 0), ("v3", 1), ("v4", 1)]
    listing = list_sources("list", root, "train", root.parent / "x.txt")
    assert len(listing.warnings) == 1
    assert "1 of 3 folders" in listing.warnings[0] and "(v3: 3 in the list, 2 in the folder)" in listing.warnings[0]


def test_a_list_with_absolute_paths_means_the_same_in_a_store(tmp_path: Path) -> None:
    stored = [SourceItem(source=f"train/{i}.mp4", kind="video", label=i) for i in range(3)]
    manifest = FrameStoreManifest.model_construct(dataset="list", split="train", classes=("a", "b", "c"))
    (tmp_path / "x.txt").write_text("/data/videos/train/1.mp4 1\n")
    assert choose_stored(tmp_path / "store", manifest, stored, tmp_path / "x.txt") == stored[1:2]


def test_class_files_with_numbers(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("zumba\t1\nair drumming\t0\n")
    assert read_classes(path) == ("air drumming", "zumba")
    for text, where in [("a\t0\nb\t2\n", 2), ("a\t0\na\t1\n", 2), ("a\t0\nb\t0\n", 2), ("a\t1\nb\t2\n", 2)]:
        path.write_text(text)
        with pytest.raises(UserError, match=f"line {where}: class .* expected every name and every label from 0 to 1"):
            read_classes(path)
    path.write_text("a\nb\n\na\n")
    with pytest.raises(UserError, match="line 4: the class 'a' occurs twice"):
        read_classes(path)


def test_parquet_lists_of_others(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {"source": ["abseiling/a1.mp4"], "kind": ["video"], "label": [2]}
    pq.write_table(pa.table({**columns, "more": [1]}), path)
    (item,) = list_sources("list", root, "train", path).items
    assert (item.source, item.label) == ("abseiling/a1.mp4", 2)
    for change, message in [
        ({"kind": ["movie"]}, "row 0: .* expected a path and a kind, video or image"),
        ({"label": [99_999]}, "row 0: label 99999, expected 0 to 29999"),
        ({"source": ["../a.mp4"]}, "row 0: .* leads out of the root"),
        ({"source": ["a\0.mp4"]}, "row 0: .* is not a file name"),
    ]:
        pq.write_table(pa.table(columns | change), path)
        with pytest.raises(UserError, match=message):
            list_sources("list", root, "train", path)
    pq.write_table(pa.table(columns).replace_schema_metadata({"classes": "[1]"}), path)
    with pytest.raises(UserError, match="metadata `classes` is not a JSON list of names"):
        list_sources("list", root, "train", path)


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_folders_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lost+found` and the like are skipped; another unreadable folder is an error. Simulated, since root reads all."""
    from pipeline.sources.walk import tree

    real = tree.os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name in ("lost+found", "café"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(tree.os, "scandir", scandir)
    (root / "lost+found").mkdir()
    with pytest.raises(UserError, match="café: no permission to read it; allow it with `chmod a"):
        list_sources("folder", root, "train")
    (root / "café" / "x.mp4").unlink()
    (root / "café").rmdir()
    assert list_sources("folder", root, "train").classes == ("abseiling", "air drumming")


def test_predict_takes_the_same_files_of_a_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("abseiling/.hidden.mp4", "lost+found/1.mp4", "abseiling/x.MTS", "abseiling/x.gif", "y.heic", "z.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    names = [str(path.relative_to(root)) for path in predict.find_media(str(root))]
    assert names == [
        "abseiling/a1.mp4",
        "abseiling/x.MTS",
        "abseiling/x.gif",
        "air drumming/b1.mp4",
        "café/x.mp4",
        "y.heic",
    ]
    assert capsys.readouterr().err == f"note: {root}: files not used: 1 .txt\n"
    assert [predict.item_of(Path(name)).kind for name in ("x.gif", "y.heic", "no suffix")] == [
        "video",
        "image",
        "video",
    ]


# ---- suffixes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["b.mts", "b.M2TS", "b.vob", "b.f4v", "b.asf", "b.mpg2", "b.gif", "b.ogv", "b.3gp", "b.mxf"]
)
def test_videos_with_rarer_suffixes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert [(item.source, item.kind) for item in list_sources("folder", tmp_path, "train").items] == [(name, "video")]


def test_kinds_do_not_overlap() -> None:
    assert not IMAGE_SUFFIXES & VIDEO_SUFFIXES
    assert kind_of("a/x.JPG") == "image" and kind_of("x.txt") is None and kind_of("mp4") is None


@pytest.mark.parametrize(
    ("names", "kind", "left_out"),
    [
        (["1.gif", "2.gif", "x.json"], "video", {".json": 1}),
        (["1.gif", "2.jpg"], "image", {}),
        (["1.gif", "2.mp4", "2.jpg"], "video", {".jpg": 1}),
        (["1.mp4", "2.mp4.part", "notes", "Thumbs.db"], "video", {".db": 1, ".part": 1, "without a suffix": 1}),
    ],
)
def test_what_is_a_source_and_what_is_counted(names: list[str], kind: str, left_out: dict[str, int]) -> None:
    media = media_files(names, None)
    assert media.kind == kind and media.ignored == left_out
    assert len(media.paths) + sum(media.ignored.values()) == len(names)


@pytest.mark.parametrize("block", [1, 2, 1000])
def test_media_files_keep_their_folders(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "BLOCK_ROWS", block)
    media = media_files(["a.mp4", "b/c/d.MP4", "b/e.txt", "b/f.mp4", "b/c/g.mp4"], None)
    assert media.paths.to_pylist() == ["a.mp4", "b/c/d.MP4", "b/f.mp4", "b/c/g.mp4"]
    assert [media.folders[at] for at in media.folder_N] == ["", "b/c", "b", "b/c"]
    assert len(media_files([], None).paths) == 0


def test_a_suffix_is_that_of_pathlib() -> None:
    rng = rng_for("suffixes")
    names = ["", ".", "..", ".a", "a.", "a..", "..a", "a.b.", "a/.b", "a.b/c", "a.b/c.D", "...", "x.MP4", ".x.mp4"]
    names += ["".join(rng.choice(list("ab./A"), 6)).strip("/") for _ in range(2000)]
    for name in names:
        if name == str(PurePosixPath(name)):  # a normal path
            assert suffix_of(name) == PurePosixPath(name).suffix.lower(), name


def test_a_tree_skips_hidden_and_system_files(root: Path) -> None:
    for name in ("@eaDir/x.mp4/thumb.jpg", "__MACOSX/._x.mp4", ".git/x.mp4", "abseiling/._a1.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    assert list(Tree(root).files()) == ["abseiling/a1.mp4", "air drumming/b1.mp4", "café/x.mp4"]
