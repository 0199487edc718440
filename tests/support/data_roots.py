"""Roots of public data sets as their mirrors ship them, tiny: the layouts of the pages about data."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from tests.support.archives import picture, tar_of
from tests.support.media import moving_frames, write_video

K400_CSV = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "abseiling,0wR5jVB-WPk,417,427,{0},0\nair drumming,-3caPS4FHFI,0,10,{0},0\nzumba,goneAAAAAAA,5,15,{0},0\n"
)
SSV2_LABELS = {"Holding [something]": "0", "Moving [something] up": "1"}
WNIDS = ("n01440764", "n01443537")


def video(seed: int, folder: Path, suffix: str = ".mp4", frames: int = 18) -> bytes:
    """The bytes of a small video."""
    codec = {".webm": "libvpx"}.get(suffix, "libx264")
    path = write_video(folder / f".made-{seed}{suffix}", moving_frames(frames, 64, 80, seed=seed), codec=codec)
    data = path.read_bytes()
    path.unlink()
    return data


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def k400(root: Path) -> None:
    """The CVDF's archives and CSV files; one video of three is gone."""
    names = ("0wR5jVB-WPk_000417_000427.mp4", "-3caPS4FHFI_000000_000010.mp4")
    for split in ("train", "val"):
        put(root / f"annotations/{split}.csv", K400_CSV.format(split))
        for number, name in enumerate(names):
            put(root / f"{split}/part_{number}.tar.gz", gzip.compress(tar_of([(name, video(number, root))])))


def ssv2(root: Path) -> None:
    """Two volumes of the divided archive, and the labels in their folder."""
    rows = [{"id": str(number), "template": template} for number, template in enumerate(SSV2_LABELS)]
    plain = {template.replace("[", "").replace("]", ""): label for template, label in SSV2_LABELS.items()}
    put(root / "labels/labels.json", json.dumps(plain))
    for split in ("train", "validation"):
        put(root / f"labels/{split}.json", json.dumps(rows))
    members = [(f"20bn-something-something-v2/{row['id']}.webm", video(int(row["id"]), root, ".webm")) for row in rows]
    archive = gzip.compress(tar_of(members))
    for number, half in enumerate((archive[: len(archive) // 2], archive[len(archive) // 2 :])):
        put(root / f"20bn-something-something-v2-{number:02d}", half)


def diving48(root: Path) -> None:
    """The three JSON files and the unpacked videos."""
    rows = [{"vid_name": name, "label": label} for label, name in enumerate(("-mmq0PT-u8k_00155", "b_1"))]
    put(
        root / "Diving48_vocab.json",
        json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "2som", "1Twis", "FREE"]]),
    )
    for split in ("train", "test"):
        put(root / f"Diving48_V2_{split}.json", json.dumps(rows))
    for seed, row in enumerate(rows):
        put(root / f"rgb/{row['vid_name']}.mp4", video(seed, root))


def imagenet(root: Path) -> None:
    """The tar of tars, the validation tar, and the labels of the latter."""
    classes = [(f"{wnid}.tar", tar_of([(f"{wnid}_{i}.JPEG", picture(i)) for i in range(2)])) for wnid in WNIDS]
    put(root / "ILSVRC2012_img_train.tar", tar_of(classes))
    put(root / "ILSVRC2012_img_val.tar", tar_of([(f"ILSVRC2012_val_{i:08d}.JPEG", picture(i)) for i in (1, 2)]))
    put(root / "imagenet_2012_validation_synset_labels.txt", "\n".join(WNIDS))


def howto100m(root: Path) -> None:
    """The CSV of the authors and videos in a folder; one is gone."""
    put(
        root / "HowTo100M_v1.csv",
        "video_id,category_1,category_2,rank,task_id\nnVbIUDjzWY4,Cars,Motorcycles,27,52907\n"
        "nVbIUDjzWY4,Cars,Motorcycles,3,5\nCTPAZ2euJ2Q,Cars,Motorcycles,35,109057\ngone,Cars,Motorcycles,1,7\n",
    )
    put(root / "videos/nVbIUDjzWY4.mp4", video(0, root))
    put(root / "videos/CTPAZ2euJ2Q.webm", video(1, root, ".webm"))


def own(root: Path) -> None:
    """Class folders beside a list and a mix of two roots."""
    for seed, name in enumerate(("left/0001.mp4", "left/0002.mp4", "right/0003.webm")):
        put(root / f"videos/{name}", video(seed, root, Path(name).suffix))
    put(root / "train.txt", "left/0001.mp4 left\nright/0003.webm right\n")
    put(root / "videos/classes.txt", "left\nright\n")


ROOTS: dict[str, Callable[[Path], None]] = {
    "kinetics-400.md": k400,
    "ssv2.md": ssv2,
    "diving48.md": diving48,
    "imagenet.md": imagenet,
    "howto100m.md": howto100m,
}
