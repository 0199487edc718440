"""Data roots with each kind of annotation file that is read: made here, or with the content of real ones."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WNIDS = ("n01440764", "n01443537", "n01484850")


@dataclass(frozen=True)
class Annotated:
    """A root in which the file `damaged` is the one to damage."""

    dataset: str
    split: str
    damaged: str
    files: dict[str, bytes]  # by path in the root
    list_file: str | None = None
    limit_s: float = 2.0
    rarely: int = 1  # damaged once where the others are damaged so often: its reader starts a process
    media: tuple[str, ...] = field(default=("a/1.mp4", "abseiling/0wR5jVB-WPk.mp4", "1.webm"))  # stubs

    def write(self, root: Path) -> None:
        for path in self.media:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"")
        for path, data in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)


def made() -> dict[str, Annotated]:
    """One of every format, with a few lines."""
    labels = json.dumps({"Putting something down": "0", "Moving something up": "1"}).encode()
    rows = [
        {"id": "1", "template": "Putting [something] down", "label": "putting a cup down", "placeholders": ["a cup"]},
        {"id": "2", "template": "Moving [something] up", "label": "moving a pen up", "placeholders": ["a pen"]},
    ]
    ssv2 = {"labels.json": labels, "train.json": json.dumps(rows).encode()}
    answers = {**ssv2, "test.json": b'[{"id": "1"}, {"id": "2"}]', "test-answers.csv": b"1;Moving something up\n"}
    diving = {
        "Diving48_V2_train.json": b'[{"vid_name": "-v_00", "label": 1, "start_frame": 0, "end_frame": 48}]',
        "Diving48_vocab.json": b'[["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]',
    }
    flat = tuple(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3))
    synsets = {"imagenet_synsets.txt": "".join(f"{wnid} a name\n" for wnid in WNIDS).encode()}
    kaggle = "ImageId,PredictionString\n" + "".join(
        f"ILSVRC2012_val_{i + 1:08d},{wnid} 1 2 3 4 \n" for i, wnid in enumerate(WNIDS)
    )
    by_wnid = {**synsets, "imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS).encode()}
    devkit = {**synsets, "ILSVRC2012_validation_ground_truth.txt": b"2\n1\n3\n", "meta.mat": _meta_mat()}
    names = b"abseiling\nair drumming\nzumba\n"
    return {
        "k400 csv": Annotated("k400", "val", "val.csv", {"val.csv": _K400}),
        "k400 test csv": Annotated("k400", "test", "test.csv", {"test.csv": _K400_TEST}),
        "k400 names": Annotated("k400", "train", "list.tsv", {"list.tsv": _BY_NAME, "classes.txt": names}),
        "classes": Annotated("k400", "train", "classes.txt", {"list.tsv": _BY_NAME, "classes.txt": names}),
        "label map": Annotated("k400", "train", "classes.txt", {"list.tsv": _BY_NAME, "classes.txt": _LABEL_MAP}),
        "list": Annotated("list", "train", "x.txt", {"x.txt": b'a/1.mp4 0\n"b, c/2.mp4",1\n'}, "x.txt"),
        "frame folders": Annotated("ssv2", "train", "x.txt", {"x.txt": b"78687 134 19\n2 0 57 1\n"}, "x.txt"),
        "ssv2 labels": Annotated("ssv2", "train", "labels.json", ssv2),
        "ssv2 rows": Annotated("ssv2", "train", "train.json", ssv2),
        "ssv2 answers": Annotated("ssv2", "test", "test-answers.csv", answers),
        "diving rows": Annotated("diving48", "train", "Diving48_V2_train.json", diving),
        "diving vocabulary": Annotated("diving48", "train", "Diving48_vocab.json", diving),
        "howto100m": Annotated("howto100m", "train", "x.csv", {"x.csv": _HOWTO}, "x.csv"),
        "synsets": Annotated("imagenet", "val", "imagenet_synsets.txt", by_wnid, media=flat),
        "wnids": Annotated("imagenet", "val", "imagenet_2012_validation_synset_labels.txt", by_wnid, media=flat),
        "kaggle": Annotated(
            "imagenet",
            "val",
            "LOC_val_solution.csv",
            {**synsets, "LOC_val_solution.csv": kaggle.encode()},
            media=flat,
        ),
        "devkit": Annotated(
            "imagenet", "val", "ILSVRC2012_validation_ground_truth.txt", devkit, media=flat, limit_s=30, rarely=50
        ),
        "devkit meta": Annotated("imagenet", "val", "meta.mat", devkit, media=flat, limit_s=30, rarely=50),
        "parquet": Annotated("list", "train", "x.parquet", {"x.parquet": _parquet()}, "x.parquet"),
    }


def real(folder: Path) -> dict[str, Annotated]:
    """The same with real annotation files, whole or their first lines, from `folder`."""
    read = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    k400, ssv2, diving = (folder.name for folder in (Path("k400"), Path("ssv2"), Path("diving48")))
    by_name = {
        "list.tsv": read[f"{k400}/mxmark_val_list_videos.txt.head200"],
        "classes.txt": read[f"{k400}/mmaction2_label_map_k400.txt"],
    }
    numbered = {
        "x.csv": read[f"{k400}/uniformer_slowfast_val.csv.head400"],
        "classes.txt": read[f"{k400}/uniformer_categories.txt"],
    }
    frames = {"x.txt": read[f"{ssv2}/uniformer_somesomev2_rgb_train_split.txt.head400"]}
    v2 = {
        "Diving48_V2_test.json": read[f"{diving}/Diving48_V2_test.json"],
        "Diving48_vocab.json": read[f"{diving}/Diving48_vocab.json"],
    }
    diving_names = {"x.txt": b"a.mp4 3\n", "classes.txt": read[f"{diving}/mmaction2_label_map.txt"]}
    synsets = {
        "imagenet_synsets.txt": read["imagenet/imagenet_synsets.txt"],
        "imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS).encode(),
    }
    flat = tuple(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3))
    return {
        "k400/official_val.csv": Annotated(
            "k400", "val", "val.csv", {"val.csv": read[f"{k400}/official_val.csv.head400"]}
        ),
        "k400/official_test.csv": Annotated(
            "k400", "test", "test.csv", {"test.csv": read[f"{k400}/official_test.csv.head50"]}
        ),
        "k400/mxmark_val_list_videos.txt": Annotated("k400", "val", "list.tsv", by_name),
        "k400/mmaction2_label_map_k400.txt": Annotated("k400", "val", "classes.txt", by_name),
        "k400/raivo_valid_processed.txt": Annotated(
            "k400", "val", "x.txt", {"x.txt": read[f"{k400}/raivo_valid_processed.txt.head200"]}, "x.txt"
        ),
        "k400/uniformer_slowfast_val.csv": Annotated("list", "val", "x.csv", numbered, "x.csv"),
        "k400/uniformer_categories.txt": Annotated("list", "val", "classes.txt", numbered, "x.csv"),
        "ssv2/uniformer_rgb_train_split.txt": Annotated("ssv2", "train", "x.txt", frames, "x.txt"),
        "ssv2/mmaction2_label_map.txt": Annotated(
            "ssv2", "train", "classes.txt", {**frames, "classes.txt": read[f"{ssv2}/mmaction2_label_map.txt"]}, "x.txt"
        ),
        "ssv2/uniformer_category.txt": Annotated(
            "ssv2", "train", "classes.txt", {**frames, "classes.txt": read[f"{ssv2}/uniformer_category.txt"]}, "x.txt"
        ),
        "diving48/Diving48_V2_test.json": Annotated("diving48", "test", "Diving48_V2_test.json", v2),
        "diving48/Diving48_vocab.json": Annotated("diving48", "test", "Diving48_vocab.json", v2),
        "diving48/mmaction2_label_map.txt": Annotated("list", "test", "classes.txt", diving_names, "x.txt"),
        "howto100m/validation_youcook.csv": Annotated(
            "howto100m", "val", "x.csv", {"x.csv": read["howto100m/validation_youcook.csv.head50"]}, "x.csv"
        ),
        "imagenet/imagenet_synsets.txt": Annotated("imagenet", "val", "imagenet_synsets.txt", synsets, media=flat),
    }


def _meta_mat() -> bytes:
    from scipy.io import savemat

    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object), ("children", object)]
    rows = [(i + 1, wnid, "a", "b", 0) for i, wnid in enumerate(WNIDS)]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(rows, dtype=fields)})
    return file.getvalue()


def _parquet() -> bytes:
    file = io.BytesIO()
    table = pa.table(
        {"source": ["a/1.mp4", "b/2.mp4"], "kind": ["video", "video"], "label": pa.array([0, None], pa.int32())}
    )
    pq.write_table(table.replace_schema_metadata({"classes": '["a"]'}), file)
    return file.getvalue()


_K400 = b"""label,youtube_id,time_start,time_end,split,is_cc
abseiling,0wR5jVB-WPk,417,427,val,0
arm wrestling,-08x1aBcDeF,3,13,val,1
massaging person's head,3caPS4FHFF8,36,46,val,0
"""
_K400_TEST = b"youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n--8YXc8iCt8,2,12,test\n"
_BY_NAME = b"abseiling/0wR5jVB-WPk.mp4\tabseiling\nair drumming/b1.mp4\tair drumming\n"
_LABEL_MAP = b"zumba\t0\nair drumming\t1\nabseiling\t2\n"
_HOWTO = b'end,start,task,text,video_id\n60,47,226,pick the ends off,xHr8X2Wpmno\n75,67,226,"a, b",xHr8X2Wpmno\n'
