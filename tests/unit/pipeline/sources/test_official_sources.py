"""The official annotation files and common layouts; one test per trap."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

import cli
from bevt_core.media.decoding import decode_frame_folder
from pipeline.sources import TEST_SPLITS, choose_stored, has_split, list_sources, separates_split, split_to_test
from pipeline.sources.listing import write_parquet_list
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, SourceItem
from tests.support.listings import labels, touch
from tests.support.media import moving_frames, write_image

# ---- Kinetics-400 ----------------------------------------------------------------------------------------------------

K400_CSV = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,0wR5jVB-WPk,417,427,val,0
arm wrestling,-08x1aBcDeF,3,13,val,1
massaging person's head,3caPS4FHFF8,36,46,val,0
tai chi,gone0000000,1,11,val,0
"""


@pytest.mark.parametrize("naming", ["trimmed", "bare", "flat", "underscores"])
def test_k400_csv_finds_both_file_namings(tmp_path: Path, naming: str) -> None:
    stems = {
        "trimmed": ["abseiling/0wR5jVB-WPk_000417_000427", "arm wrestling/-08x1aBcDeF_000003_000013"],
        "bare": ["abseiling/0wR5jVB-WPk", "arm wrestling/-08x1aBcDeF"],
        "flat": ["0wR5jVB-WPk_000417_000427", "-08x1aBcDeF"],
        "underscores": ["abseiling/0wR5jVB-WPk", "arm_wrestling/-08x1aBcDeF_000003_000013"],
    }[naming]
    touch(tmp_path, *(f"val/{stem}.mp4" for stem in stems), "val/massaging person's head/3caPS4FHFF8.mkv")
    (tmp_path / "kinetics-400_val.csv").write_text(K400_CSV)
    listing = list_sources("k400", tmp_path, "val")
    found = {source: name for source, name in labels(listing).items() if source not in listing.missing}
    assert found == {
        f"val/{stems[0]}.mp4": "abseiling",
        f"val/{stems[1]}.mp4": "arm wrestling",
        "val/massaging person's head/3caPS4FHFF8.mkv": "massaging person's head",
    }
    assert listing.missing == ["val/tai chi/gone0000000_000001_000011.mp4"]


def test_k400_classes_may_be_spelled_with_underscores(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(K400_CSV)
    (tmp_path / "classes.txt").write_text("abseiling\narm_wrestling\nmassaging_person's_head\ntai_chi\n")
    assert [item.label for item in list_sources("k400", tmp_path, "val").items] == [0, 1, 2, 3]
    (tmp_path / "classes.txt").write_text("abseiling\n")
    with pytest.raises(UserError, match="unknown class 'arm wrestling'"):
        list_sources("k400", tmp_path, "val")


def test_k400_lists_name_files_that_were_renamed(tmp_path: Path) -> None:
    """MMAction2's lists say `{id}.mp4` where the mirror has `{id}_{start}_{end}.mp4`."""
    touch(tmp_path, "videos/abseiling/0wR5jVB-WPk_000417_000427.mp4")
    (tmp_path / "list.tsv").write_text("abseiling/0wR5jVB-WPk.mp4 0\n")
    listing = list_sources("k400", tmp_path, "val")
    assert (labels(listing), listing.missing) == ({"videos/abseiling/0wR5jVB-WPk_000417_000427.mp4": "0"}, [])


@pytest.mark.parametrize("parent", ["", "replacement/", "train/"])
@pytest.mark.parametrize("csv", [False, True])
def test_k400_replacements_are_no_class(tmp_path: Path, parent: str, csv: bool) -> None:
    """A replacement has the class of the damaged video; without that and a CSV, its class is unknown."""
    folder = f"{parent}replacement_for_corrupted_k400"
    trimmed = "idAAAAAAA-1_000010_000020"
    touch(tmp_path, "train/abseiling/0wR5jVB-WPk.mp4", "train/tai chi/idAAAAAAA-1.mp4", "val/abseiling/b.mp4")
    touch(tmp_path, f"{folder}/{trimmed}.mp4", f"{folder}/idBBBBBBBBB_000000_000010.mp4")
    if csv:
        rows = ["abseiling,0wR5jVB-WPk,417,427", "tai chi,idAAAAAAA-1,10,20", "zumba,idBBBBBBBBB,0,10"]
        (tmp_path / "train.csv").write_text(K400_HEADER + "".join(f"{row},train,0\n" for row in rows))
    listing = list_sources("k400", tmp_path, "train")
    expected = {"train/abseiling/0wR5jVB-WPk.mp4": "abseiling", f"{folder}/{trimmed}.mp4": "tai chi"}
    if csv:
        expected[f"{folder}/idBBBBBBBBB_000000_000010.mp4"] = "zumba"
    assert labels(listing) == expected and len(listing.classes) == len(expected) and listing.missing == []
    (warning,) = listing.warnings
    used = f"videos of replacement_for_corrupted_k400 used instead of those with the same id: {2 if csv else 1}"
    assert warning.startswith(used) and ("; left out" in warning) == (parent == "train/" and not csv)
    assert labels(list_sources("k400", tmp_path, "val")) == {"val/abseiling/b.mp4": "abseiling"}


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["train/a/1.mp4", "val/a/2.mp4"], {"train", "val"}),
        (["videos/val/a/2.mp4", "videos/train/a/1.mp4"], {"train", "val"}),
        (["a/1.mp4", "annotations/val.csv"], {"val"}),
        (["train/a/1.mp4", "val/a/2.mp4", "list.tsv"], set()),  # which lists both
    ],
)
def test_k400_separates_splits(tmp_path: Path, names: list[str], kept: set[str]) -> None:
    touch(tmp_path, *names)
    assert {split for split in ("train", "val", "test") if separates_split("k400", tmp_path, split)} == kept


def test_official_lists_have_every_split_and_folders_the_existing_ones(tmp_path: Path) -> None:
    touch(tmp_path, "val/x/a.mp4")
    had = {dataset: has_split(dataset, tmp_path, "test") for dataset in ("ssv2", "diving48", "k400", "folder")}
    assert had == {"ssv2": True, "diving48": True, "k400": False, "folder": False}
    assert has_split("folder", tmp_path, "val") and not separates_split("ssv2", tmp_path, "test")


@pytest.mark.parametrize("command", ["evaluate", "extract"])
def test_the_help_names_the_splits_that_data_sets_are_tested_on(command: str) -> None:
    (split,) = (option for option in get_command(cli.app).commands[command].params if option.name == "split")
    known = ", ".join(f"{dataset} {split_to_test(dataset)}" for dataset in TEST_SPLITS)
    assert f"(default: {known}, else {split_to_test('folder')})." in split.help


def test_a_list_means_in_a_store_what_it_means_among_files(tmp_path: Path) -> None:
    """The official CSV and lists with the other naming; classes are matched by name, in any order."""
    sources = ["val/abseiling/0wR5jVB-WPk_000417_000427.mp4", "val/arm_wrestling/-08x1aBcDeF.mp4", "val/x/other.mp4"]
    stored = [
        SourceItem(source=source, kind="video", label=label) for source, label in zip(sources, (2, 1, 0), strict=True)
    ]
    manifest = FrameStoreManifest.model_construct(
        dataset="k400", split="val", classes=("x", "arm wrestling", "abseiling")
    )
    (tmp_path / "k400.csv").write_text("".join(K400_CSV.splitlines(keepends=True)[:3]))
    (tmp_path / "list.txt").write_text("abseiling/0wR5jVB-WPk.mp4 2\n-08x1aBcDeF.mp4 -1\n")
    for name in ("k400.csv", "list.txt"):
        assert choose_stored(tmp_path / "store", manifest, stored, tmp_path / name) == stored[:2]
    with pytest.raises(UserError, match="2 of its 4 sources"):
        (tmp_path / "k400.csv").write_text(K400_CSV)
        choose_stored(tmp_path / "store", manifest, stored, tmp_path / "k400.csv")


K400_HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.mark.parametrize(
    "name",
    ["idAAAAAAA-1.mp4.mkv", "idAAAAAAA-1.f137.mp4", "idAAAAAAA-1_000010_000020.f137.mp4.webm", "idAAAAAAA-1.F248.webm"],
)
def test_k400_files_as_downloaders_leave_them(tmp_path: Path, name: str) -> None:
    """Sound files beside them are not used."""
    touch(tmp_path, f"abseiling/{name}", "abseiling/idAAAAAAA-1.f251.webm", "abseiling/idAAAAAAA-1.f140.m4a")
    (tmp_path / "train.csv").write_text(f"{K400_HEADER}abseiling,idAAAAAAA-1,10.0,20.0,train,0\n")
    listing = list_sources("k400", tmp_path, "train")
    assert (labels(listing), listing.missing) == ({f"abseiling/{name}": "abseiling"}, [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abseiling,-idAAAAAAA1", r"train\.csv, line 2: 2 fields, expected 6 \('label,youtube_id,"),
        ("abseiling,-idAAAAAAA1,ten,20,train,0", r"train\.csv, line 2: time_start is 'ten', expected a number from 0"),
        ("a, b,-idAAAAAAA1,10,20,train,0", r"train\.csv, line 2: 7 fields, expected 6"),
        ("abseiling,../../etc/x,10,20,train,0", r"train\.csv, line 2: .* leads out of the root"),
        ("abseiling,x,10,20,train,0\nabseiling,x,10,20,train,0", r"line 3: .* more than once; first in .* line 2"),
    ],
)
def test_k400_rows_that_cannot_be_read(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(f"{K400_HEADER}{row}\n")
    with pytest.raises(UserError, match=message):
        list_sources("k400", tmp_path, "train")


def test_k400_test_rows_have_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "test/--6bJUbfpnQ_000017_000027.mp4")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    assert labels(list_sources("k400", tmp_path, "test")) == {"test/--6bJUbfpnQ_000017_000027.mp4": None}


def test_two_label_maps_disagree_and_names_survive(shared_data: Path, tmp_path: Path) -> None:
    """The same list under two public maps: the numbers differ, and each listing includes the names of its numbers."""
    lines = (shared_data / "annotations/k400/mxmark_val_list_videos.txt.head200").read_text()
    ours = (shared_data / "annotations/k400/mmaction2_label_map_k400.txt").read_text().splitlines()
    theirs = sorted(ours, key=lambda name: name[::-1])
    listings = []
    for folder, classes in (("one", ours), ("two", theirs)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "list.tsv").write_text(lines)
        (tmp_path / folder / "classes.txt").write_text("\n".join(classes))
        listings.append(list_sources("k400", tmp_path / folder, "val"))
    assert labels(listings[0]) == labels(listings[1])
    assert [item.label for item in listings[0].items] != [item.label for item in listings[1].items]
    assert len(listings[0].missing) == len(listings[0].items) == 200


def test_the_real_k400_csv(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text((shared_data / "annotations/k400/official_val.csv.head400").read_text())
    listing = list_sources("k400", tmp_path, "val")
    assert len(listing.missing) == len(listing.items) >= 398
    assert any(item.source.split("/")[-1].startswith("-") for item in listing.items)


# ---- Something-Something-V2 ------------------------------------------------------------------------------------------


def ssv2(root: Path) -> Path:
    (root / "labels.json").write_text(
        json.dumps({"Holding something next to something": "1", "Something falling like a feather or paper": "0"})
    )
    rows = [
        {"id": "78687", "label": "x", "template": "Holding [something] next to [something]", "placeholders": []},
        {"id": "36585", "label": "y", "template": "[Something] falling like a feather or paper", "placeholders": []},
    ]
    (root / "train.json").write_text(json.dumps(rows))
    (root / "test.json").write_text(json.dumps([{"id": "1420"}]))
    return root


def test_ssv2_templates_have_brackets_and_labels_are_strings(tmp_path: Path) -> None:
    listing = list_sources("ssv2", touch(ssv2(tmp_path), "videos/78687.webm", "videos/36585.webm"), "train")
    assert labels(listing) == {
        "videos/78687.webm": "Holding something next to something",
        "videos/36585.webm": "Something falling like a feather or paper",
    }
    assert [item.label for item in listing.items] == [1, 0]


def test_ssv2_test_rows_have_no_template(tmp_path: Path) -> None:
    touch(ssv2(tmp_path), "1420.webm")
    assert labels(list_sources("ssv2", tmp_path, "test")) == {"1420.webm": None}
    (tmp_path / "test-answers.csv").write_text("1420;Holding something next to something\n")
    assert labels(list_sources("ssv2", tmp_path, "test")) == {"1420.webm": "Holding something next to something"}


def test_ssv2_files_of_two_versions_are_refused(tmp_path: Path) -> None:
    (ssv2(tmp_path) / "labels.json").write_text('{"Poking something": "0"}')
    with pytest.raises(UserError, match="is not a key of"):
        list_sources("ssv2", touch(tmp_path, "78687.webm"), "train")


def test_ssv2_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Byte order marks are accepted; truncated files and other types are one error each."""
    for path in (ssv2(tmp_path) / "train.json", tmp_path / "labels.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(list_sources("ssv2", touch(tmp_path, "78687.webm"), "train").missing) == 1
    rows = (tmp_path / "train.json").read_text(encoding="utf-8-sig")
    (tmp_path / "test-answers.csv").write_text("1420;Holding something next to something\n7\n")
    with pytest.raises(UserError, match=r"test-answers\.csv, line 2: 1 fields, expected 2"):
        list_sources("ssv2", tmp_path, "test")
    for text, message in [
        (rows[:40], r"train\.json, line 1: JSON that ends early"),
        (rows[:-1], r"train\.json, line 1: JSON that ends early"),
        ('{"id": "1"}', r"train\.json: the content is .*, expected a list"),
        ('[{"id": 1.5}]', r"train\.json, entry 1: id is 1\.5, expected text"),
        ('[{"id": "../x"}]', r"train\.json, entry 1: .* leads out of the root"),
        ('[{"id": "\\ud800"}]', r"train\.json, entry 1: .* is not a file name"),
        ('[{"id": "1", "template": ["x"]}]', r"train\.json, entry 1: template is \['x'\], expected text"),
    ]:
        (tmp_path / "train.json").write_text(text)
        with pytest.raises(UserError, match=message):
            list_sources("ssv2", tmp_path, "train")
    for text, message in [
        ('["a"]', "expected an object"),
        ('{"a": "x"}', "the label of 'a' is 'x', expected a number"),
        ('{"a": "1", "b": "2"}', r"labels are not 0\.\.1"),
    ]:
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(UserError, match=rf"labels\.json: .*{message}"):
            list_sources("ssv2", tmp_path, "train")


def test_ssv2_frame_folders(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("2 49 68\n862 48 68\n77005 44 107\n999999 10 1\n")
    listing = list_sources("ssv2", shared_data / "ssv2", "train", tmp_path / "list.txt")
    assert [(item.source, item.kind, item.label) for item in listing.items[:3]] == [
        ("rawframes/2", "video", 68),
        ("rawframes/862", "video", 68),
        ("rawframes/77005", "video", 107),
    ]
    assert listing.missing == ["rawframes/999999"]
    decoded = decode_frame_folder(shared_data / "ssv2/rawframes/2", lambda n: range(0, n, 8), lambda frame: frame)
    assert decoded.frame_indices == list(range(0, 48, 8))
    assert decoded.times_s[1] == pytest.approx(8 / 12)


def test_frame_folders_sort_by_number(tmp_path: Path) -> None:
    for i, frame in enumerate(moving_frames(12)):
        write_image(tmp_path / f"img_{i}.png", frame)
    decoded = decode_frame_folder(tmp_path, lambda n: range(n), lambda frame: frame)
    assert all(np.array_equal(a, b) for a, b in zip(decoded.frames, moving_frames(12), strict=True))


# ---- Diving48 --------------------------------------------------------------------------------------------------------


def diving(root: Path, rows: list[dict[str, object]], name: str = "Diving48_V2_test.json") -> Path:
    (root / "Diving48_vocab.json").write_text(json.dumps([["Back", f"{i}som", "FREE"] for i in range(48)]))
    (root / name).write_text(json.dumps(rows))
    return root


def test_diving48_has_48_classes_though_47_occur(tmp_path: Path) -> None:
    rows = [{"vid_name": "-mmq0PT-u8k_00155", "label": 47, "start_frame": 0, "end_frame": 48}]
    listing = list_sources("diving48", touch(diving(tmp_path, rows), "rgb/-mmq0PT-u8k_00155.mp4"), "test")
    assert len(listing.classes) == 48
    assert labels(listing) == {"rgb/-mmq0PT-u8k_00155.mp4": "Back 47som FREE"}


def test_diving48_version_1_is_refused_by_name_and_by_content(tmp_path: Path) -> None:
    diving(tmp_path, [{"vid_name": "a", "label": 3}], "Diving48_test.json")
    with pytest.raises(UserError, match="version 1"):
        list_sources("diving48", tmp_path, "test")
    with pytest.raises(UserError, match="version 1"):
        list_sources("diving48", tmp_path, "test", tmp_path / "Diving48_test.json")
    diving(tmp_path, [{"vid_name": "a", "label": 30}])
    with pytest.raises(UserError, match="label 30 occurs"):
        list_sources("diving48", tmp_path, "test")


def test_diving48_labels_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    for row, message in [
        ({"vid_name": "a", "label": 99}, "entry 1: label 99, expected 0 to 47"),
        ({"vid_name": "a", "label": -1}, "entry 1: label -1, expected 0 to 47"),
        ({"vid_name": "a", "label": "3"}, "entry 1: label is '3', expected a whole number"),
        ({"label": 3}, "entry 1: no 'vid_name'"),
    ]:
        diving(tmp_path, [row])
        with pytest.raises(UserError, match=rf"Diving48_V2_test\.json, {message}"):
            list_sources("diving48", tmp_path, "test")
    diving(tmp_path, [{"vid_name": "a", "label": 3}])
    (tmp_path / "Diving48_vocab.json").write_text('[["Back", 15]]')
    with pytest.raises(UserError, match=r"vocab\.json, entry 1: a word is 15, expected text"):
        list_sources("diving48", tmp_path, "test")


def test_the_real_diving48_files(shared_data: Path) -> None:
    listing = list_sources("diving48", shared_data / "annotations" / "diving48", "test")
    assert (len(listing.items), len(listing.classes), len(listing.missing)) == (1970, 48, 1970)
    assert 30 not in {item.label for item in listing.items}


# ---- ImageNet --------------------------------------------------------------------------------------------------------

WNIDS = ["n01440764", "n02119789", "n01530575"]


def flat_validation(root: Path) -> Path:
    touch(root, *(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)))
    (root / "imagenet_synsets.txt").write_text("".join(f"{wnid} name\n" for wnid in sorted(WNIDS)))
    return root


@pytest.mark.parametrize("form", ["kaggle", "wnid per line"])
def test_flat_imagenet_validation(tmp_path: Path, form: str) -> None:
    flat_validation(tmp_path)
    if form == "kaggle":
        rows = "".join(f"ILSVRC2012_val_{i + 1:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8\n" for i, wnid in enumerate(WNIDS))
        (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)
    else:
        (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS))
    listing = list_sources("imagenet", tmp_path, "val")
    assert list(labels(listing).values()) == WNIDS
    assert [item.label for item in listing.items] == [0, 2, 1]


def test_imagenet_labels_that_are_cut_or_of_another_kind(tmp_path: Path) -> None:
    flat_validation(tmp_path)
    path = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    for text, message in [
        ("\n".join(WNIDS[:2]), "no label for val/ILSVRC2012_val_00000003.JPEG; the file is incomplete"),
        ("\n".join([*WNIDS[:2], "n1"]), r"line 3: 'n1', expected a wnid"),
        ("\n".join([*WNIDS[:2], "n00000001"]), "'n00000001', expected one of the 3 classes"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=f"{path}.*{message}"):
            list_sources("imagenet", tmp_path, "val")
    path.write_text("\n".join(WNIDS))
    touch(tmp_path, "val/notes.txt", "val/extra.JPEG")
    assert list_sources("imagenet", tmp_path, "val").ignored == {".jpeg": 1, ".txt": 1}


def test_devkit_ids_are_not_the_sorted_index(tmp_path: Path) -> None:
    from scipy.io import savemat

    flat_validation(tmp_path)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n3\n")
    with pytest.raises(UserError, match="not in the order of sorted wnids"):
        list_sources("imagenet", tmp_path, "val")
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object), ("children", object)]
    order = ["n02119789", "n01440764", "n01530575"]  # of the devkit
    rows = [(i + 1, wnid, "a", "b", 0) for i, wnid in enumerate(order)] + [(4, "n00000004", "a", "b", 2)]
    savemat(tmp_path / "meta.mat", {"synsets": np.array(rows, dtype=fields)})
    assert list(labels(list_sources("imagenet", tmp_path, "val")).values()) == WNIDS
    (tmp_path / "meta.mat").write_bytes((tmp_path / "meta.mat").read_bytes()[:300])
    with pytest.raises(UserError, match=r"meta\.mat: not a MATLAB file with a variable 'synsets'"):
        list_sources("imagenet", tmp_path, "val")


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_howto100m(tmp_path: Path) -> None:
    touch(tmp_path, "a/xHr8X2Wpmno.mp4", "b/other.webm")
    assert len(list_sources("howto100m", tmp_path, "train").items) == 2
    (tmp_path / "list.csv").write_text(
        'end,start,task,text,video_id\n60,47,226,pick,xHr8X2Wpmno\n75,67,226,"a, b",xHr8X2Wpmno\n'
    )
    listing = list_sources("howto100m", tmp_path, "train", tmp_path / "list.csv")
    assert labels(listing) == {"a/xHr8X2Wpmno.mp4": None}


def test_a_list_of_anything(tmp_path: Path) -> None:
    touch(tmp_path, "é'\" $(x)/-a.mp4", "b.jpg")
    (tmp_path / "my.txt").write_text("é'\" $(x)/-a.mp4 3\nb.jpg 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="needs `list_file`"):
        list_sources("list", tmp_path, "train")
    listing = list_sources("list", tmp_path, "train", tmp_path / "my.txt")
    assert [(item.source, item.kind, item.label) for item in listing.items] == [
        ("é'\" $(x)/-a.mp4", "video", 3),
        ("b.jpg", "image", 1),
    ]


def test_a_scanned_list_keeps_labels_and_classes(tmp_path: Path) -> None:
    listing = list_sources("folder", touch(tmp_path, "b/1.mp4", "a/2.mp4"), "train")
    write_parquet_list(tmp_path / "list.parquet", listing)
    for dataset in ("folder", "list", "k400"):
        again = list_sources(dataset, tmp_path, "train", tmp_path / "list.parquet")
        assert (again.items, again.classes) == (listing.items, listing.classes)
    (tmp_path / "a" / "2.mp4").unlink()
    assert list_sources("list", tmp_path, "train", tmp_path / "list.parquet").missing == ["a/2.mp4"]


def test_allow_outside(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.mp4", "root/b/2.mp4")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "list.txt").write_text("../elsewhere/1.mp4 0\n")
    with pytest.raises(UserError, match="--allow-outside"):
        list_sources("list", tmp_path / "root", "train", tmp_path / "list.txt")
    assert list_sources("list", tmp_path / "root", "train", tmp_path / "list.txt", allow_outside=True).missing == []
    assert len(list_sources("folder", tmp_path / "root", "train", allow_outside=True).items) == 2
